import { expect } from 'chai';
import { findPodSandbox, listPodSandboxes } from '../../../src/sandbox/list.ts';
import { moved, needsPause, networkRequest, parseSandboxRecord, pinnedNamespaces, sandboxKey } from '../../../src/sandbox/record.ts';
import type { PodSandboxRecord } from '../../../src/sandbox/record.ts';
import type { SandboxDeps } from '../../../src/sandbox/deps.ts';
import { podConfig, podRecord } from '../../lib/records.ts';

type Mode = 'POD' | 'CONTAINER' | 'NODE';
const withModes = (network: Mode, pid: Mode, ipc: Mode): ReturnType<typeof podConfig> =>
  podConfig({
    linux: {
      securityContext: { namespaceOptions: { network, pid, ipc, targetId: '', usernsOptions: null } },
    } as unknown as ReturnType<typeof podConfig>['linux'],
  });

const storeOf = (...records: PodSandboxRecord[]): Pick<SandboxDeps, 'store'> => ({
  store: { get: (id: string) => records.find((r) => r.id === id), values: () => records } as unknown as SandboxDeps['store'],
});

describe('sandbox/record', () => {
  it('pins what the pod does not share with the host; only a pod-shared PID namespace needs a process', () => {
    expect(pinnedNamespaces(podConfig())).to.have.members(['net', 'ipc', 'uts']);
    expect(pinnedNamespaces(withModes('NODE', 'POD', 'POD'))).to.deep.equal(['ipc']);
    expect(pinnedNamespaces(withModes('POD', 'CONTAINER', 'NODE'))).to.have.members(['net', 'uts']);
    expect(needsPause(withModes('POD', 'CONTAINER', 'POD'))).to.equal(false);
    expect(needsPause(podConfig())).to.equal(true);
  });

  it('is keyed by pod and attempt', () => {
    const other = podConfig({ metadata: { name: 'web', uid: 'uid-1', namespace: 'default', attempt: 1 } });
    expect(sandboxKey(podConfig())).to.equal('default/web/uid-1/0');
    expect(sandboxKey(other)).to.not.equal(sandboxKey(podConfig()));
  });

  it('reads bandwidth quantities and leaves nonsense out', () => {
    const annotated = (ingress: string): ReturnType<typeof networkRequest> =>
      networkRequest(podRecord({ config: podConfig({ annotations: { 'kubernetes.io/ingress-bandwidth': ingress } }) }), '/ns');
    expect(annotated('10M').bandwidth).to.deep.equal({ ingressRate: 10_000_000, egressRate: 0 });
    expect(annotated('1Ki').bandwidth?.ingressRate).to.equal(1024);
    expect(annotated('10M;rm').bandwidth).to.equal(undefined);
  });

  it('refuses a move that its table lacks, and records of another version', () => {
    expect(moved(podRecord(), 'notReady').state).to.equal('notReady');
    expect(() => moved(podRecord(), 'creating')).to.throw('assertion failed');
    expect(() => parseSandboxRecord({ ...podRecord(), version: 2 })).to.throw('version 2 is not known');
    expect(() => parseSandboxRecord('x')).to.throw('version is missing');
  });
});

describe('sandbox/list', () => {
  const [a, b] = [podRecord(), podRecord({ id: `ab${'c'.repeat(62)}`, state: 'notReady', createdAtNs: '1800000000000000000' })];
  const creating = podRecord({ id: `e${'0'.repeat(63)}`, state: 'creating' });
  const warm = podRecord({ id: `f${'0'.repeat(63)}`, state: 'warm' });

  it('hides what is being created and what no pod has yet, shows newest first, filters by state, label and id', () => {
    const deps = storeOf(a, b, creating, warm);
    expect(listPodSandboxes(deps, null)).to.deep.equal([b, a]);
    const filter = { id: '', state: { state: 'SANDBOX_READY' as const }, labelSelector: {} };
    expect(listPodSandboxes(deps, filter)).to.deep.equal([a]);
    expect(listPodSandboxes(deps, { id: '', state: null, labelSelector: { app: 'x' } })).to.deep.equal([]);
  });

  it('finds by unique prefix, and says why it does not', () => {
    const deps = storeOf(a, b, creating, warm);
    expect(findPodSandbox(deps, 'aa')).to.equal(a);
    expect(() => findPodSandbox(deps, 'a')).to.throw('pod_sandbox_id: a is the beginning of 2 ids');
    expect(() => findPodSandbox(deps, creating.id)).to.throw('not found');
    expect(() => findPodSandbox(deps, warm.id)).to.throw('not found');
    expect(() => findPodSandbox(deps, '')).to.throw('not found');
  });
});
