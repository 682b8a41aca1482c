import { expect } from 'chai';
import { containerLabels } from '../../../src/container/selinux.ts';
import type { SelinuxLabels } from '../../../src/os/selinux.ts';
import type { PodSandboxRecord } from '../../../src/sandbox/record.ts';
import { podLabels } from '../../../src/sandbox/selinux.ts';
import { containerConfig, podConfig, podRecord } from '../../lib/records.ts';

const POLICY = { process: 'system_u:system_r:container_t:s0', mount: 'system_u:object_r:container_file_t:s0' };
const NONE = { user: '', role: '', type: '', level: '' };
const withContext = <T>(securityContext: object): { linux: T } => ({ linux: { securityContext } as unknown as T });

describe('sandbox/selinux, container/selinux', () => {
  const anything = (): boolean => true;
  const pod = (
    selinuxOptions: object | null,
    others: PodSandboxRecord[] = [],
    knows: (label: string) => boolean = anything,
  ): SelinuxLabels => podLabels({ selinux: POLICY, store: { values: () => others } }, podConfig(withContext({ selinuxOptions })), knows);
  const sandbox = podRecord({ selinux: pod({ ...NONE, level: 's0:c1,c2' }) });
  const container = (context: object, knows: (label: string) => boolean = anything): SelinuxLabels | undefined =>
    containerLabels(sandbox, containerConfig(withContext(context)), knows);

  it('gives a pod the categories of its own, the same for processes and files', () => {
    const [one, two] = [pod(null), pod(null, [podRecord({ selinux: pod(null) })])];
    for (const { process, mount } of [one, two]) {
      const [level] = /s0:c\d+,c\d+$/.exec(process) ?? [];
      expect([process, mount]).to.deep.equal([`system_u:system_r:container_t:${level}`, `system_u:object_r:container_file_t:${level}`]);
    }
    expect(one.process).to.not.equal(two.process);
  });

  it('gives a pod what it names', () => {
    expect(pod({ user: 'u', role: 'r', type: 't', level: 's0:c1,c2' })).to.deep.equal({
      process: 'u:r:t:s0:c1,c2',
      mount: 'u:object_r:container_file_t:s0:c1,c2',
    });
  });

  it("gives a container its pod's labels, changed as it says", () => {
    expect(container({ selinuxOptions: null })).to.deep.equal(sandbox.selinux);
    expect(containerLabels(sandbox, containerConfig(), anything)).to.deep.equal(sandbox.selinux);
    expect(container({ selinuxOptions: { ...NONE, type: 'mine_t' } })).to.deep.equal({
      process: 'system_u:system_r:mine_t:s0:c1,c2',
      mount: 'system_u:object_r:container_file_t:s0:c1,c2',
    });
    expect(container({ selinuxOptions: { ...NONE, level: 's0' } })).to.deep.equal(POLICY);
  });

  it("leaves a privileged process unconfined unless it names a type; its files are the pod's", () => {
    const privileged = (selinuxOptions: object | null): ReturnType<typeof containerLabels> =>
      container({ selinuxOptions, privileged: true });
    const mount = sandbox.selinux?.mount;
    expect(privileged(null)).to.deep.equal({ process: 'system_u:system_r:spc_t:s0', mount });
    expect(privileged({ ...NONE, level: 's0:c7,c8' })?.process).to.equal('system_u:system_r:spc_t:s0:c7,c8');
    expect(privileged({ ...NONE, type: 'mine_t' })).to.deep.equal({ process: 'system_u:system_r:mine_t:s0:c1,c2', mount });
  });

  it('refuses what the policy does not know, by the field that asks for it', () => {
    const words = 'config.linux.security_context.selinux_options: the SELinux policy of this machine has no';
    const knows = (label: string): boolean => !label.includes('odd_t');
    const odd = { ...NONE, type: 'odd_t' };
    expect(() => pod(odd, [], knows)).to.throw(`${words} system_u:system_r:odd_t:s0:`);
    expect(() => container({ selinuxOptions: odd }, knows)).to.throw(`${words} system_u:system_r:odd_t:s0:c1,c2`);
    expect(() => container({ selinuxOptions: null, privileged: true }, (label) => !label.includes('spc_t'))).to.throw('spc_t:s0');
  });

  it('labels nothing where the pod has no labels, whatever is asked for', () => {
    const asked = { selinuxOptions: { user: 'u', role: 'r', type: 't', level: 's0' }, privileged: true };
    expect(containerLabels(podRecord(), containerConfig(withContext(asked)))).to.equal(undefined);
  });
});
