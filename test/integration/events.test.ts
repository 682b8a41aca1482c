import { expect } from 'chai';
import type { ContainerEventResponse__Output } from '../../src/gen/cri/runtime/v1/ContainerEventResponse.ts';
import { Bed, eventually } from '../lib/bed.ts';
import { StalledCall } from '../lib/stalled.ts';

const RESOURCE_EXHAUSTED = 8;
const CONTAINER_PID = { securityContext: { namespaceOptions: { pid: 'CONTAINER' } } } as const;
/** Nothing but records: no network, no namespaces, no process. */
const ON_THE_HOST = { securityContext: { namespaceOptions: { network: 'NODE', ipc: 'NODE', pid: 'CONTAINER' } } } as const;

/** GetContainerEvents as kubelet's evented PLEG reads it (R24). */
describe('events', function () {
  this.timeout(60_000);
  let bed: Bed;
  let seen: ContainerEventResponse__Output[] = [];
  let watching: Disposable | undefined;

  before(async () => {
    bed = await Bed.make();
    watching = bed.cri.events((event) => seen.push(event));
    await eventually('the daemon has a subscriber', async () => (await counters()).subscribers === 1);
  });
  after(async () => {
    watching?.[Symbol.dispose]();
    await bed?.end();
  });
  beforeEach(() => {
    seen = [];
  });

  const counters = async (): Promise<{ subscribers: number; dropped: number }> => {
    const { info } = await bed.cri.runtime('status', { verbose: true });
    return JSON.parse(info['events'] ?? '{}') as { subscribers: number; dropped: number };
  };
  const types = (id: string): string[] =>
    seen
      .filter(({ containerId }) => containerId === id)
      .map(({ containerEventType }) => containerEventType.replace(/^CONTAINER_|_EVENT$/g, ''));
  const LIFE = ['CREATED', 'STARTED', 'STOPPED', 'DELETED'];

  it("tell a pod's and a container's life in order, each with the whole pod", async () => {
    const config = bed.podConfig('life', { linux: CONTAINER_PID });
    const pod = await bed.runPod(config);
    const container = await bed.runContainer(pod, config, bed.containerConfig('app', 'sleep 1000', { labels: { app: 'one' } }));
    await bed.cri.runtime('stopContainer', { containerId: container, timeout: 0 });
    await bed.cri.runtime('removeContainer', { containerId: container });
    await bed.cri.runtime('stopPodSandbox', { podSandboxId: pod });
    await bed.cri.runtime('removePodSandbox', { podSandboxId: pod });
    await eventually('the end of the pod is told', () => types(pod).includes('DELETED'));

    expect(types(container)).to.deep.equal(LIFE);
    expect(types(pod)).to.deep.equal(LIFE);
    for (const { podSandboxStatus, containersStatuses, containerId, containerEventType } of seen) {
      expect(podSandboxStatus?.id, containerEventType).to.equal(pod);
      expect(podSandboxStatus?.metadata).to.deep.equal({ name: 'life', uid: 'uid-life', namespace: 'default', attempt: 0 });
      for (const status of containersStatuses) {
        expect(status.id).to.equal(container);
        expect(status.image?.image).to.match(/demo/);
        expect(status.imageRef).to.match(/^images\.test\/demo@sha256:/);
        expect(status.imageId).to.match(/^sha256:/);
        expect(status.labels).to.deep.equal({ app: 'one' });
      }
      const own = containersStatuses.find(({ id }) => id === containerId);
      const told = `${containerEventType} ${own?.state ?? ''}`;
      if (containerId === container)
        expect(told).to.be.oneOf([
          'CONTAINER_CREATED_EVENT CONTAINER_CREATED',
          'CONTAINER_STARTED_EVENT CONTAINER_RUNNING',
          'CONTAINER_STOPPED_EVENT CONTAINER_EXITED',
          'CONTAINER_DELETED_EVENT ',
        ]);
    }
    const states = seen.filter(({ containerId }) => containerId === pod).map(({ podSandboxStatus }) => podSandboxStatus?.state);
    expect(states).to.deep.equal(['SANDBOX_READY', 'SANDBOX_READY', 'SANDBOX_NOTREADY', 'SANDBOX_NOTREADY']);
  });

  it('tell the start of what ends at once before its end', async () => {
    const config = bed.podConfig('short', { linux: CONTAINER_PID });
    const pod = await bed.runPod(config);
    const ids: string[] = [];
    for (let attempt = 0; attempt < 10; attempt++) {
      ids.push(await bed.runContainer(pod, config, bed.containerConfig(`short-${attempt}`, 'exit 3')));
    }
    await eventually('all ends are told', () => ids.every((id) => types(id).includes('STOPPED')));
    for (const id of ids) {
      expect(types(id)).to.deep.equal(['CREATED', 'STARTED', 'STOPPED']);
      const last = seen.filter(({ containerId }) => containerId === id).at(-1);
      const status = last?.containersStatuses.find((each) => each.id === id);
      expect(status).to.include({ state: 'CONTAINER_EXITED', exitCode: 3, reason: 'Error' });
      expect(BigInt(status?.startedAt ?? '0') > 0n).to.equal(true);
    }
    await bed.cri.runtime('stopPodSandbox', { podSandboxId: pod });
    await bed.cri.runtime('removePodSandbox', { podSandboxId: pod });
  });

  it('close the stream of a client that does not read, which costs the others nothing', async () => {
    const before = await counters();
    using stalled = new StalledCall(bed.gantry.socket, 'GetContainerEvents');
    await eventually('both subscribe', async () => (await counters()).subscribers === 2);
    // Each event weighs some 600 KB, the queue takes 32 MiB.
    const annotations = { note: 'n'.repeat(200_000) };
    const pods: string[] = [];
    for (let index = 0; index < 25; index++) {
      const pod = await bed.runPod(bed.podConfig(`many-${index}`, { annotations, linux: ON_THE_HOST }));
      pods.push(pod);
      await bed.cri.runtime('stopPodSandbox', { podSandboxId: pod });
      await bed.cri.runtime('removePodSandbox', { podSandboxId: pod });
    }
    await eventually('the others have seen everything', () => pods.every((pod) => types(pod).length === 4));
    for (const pod of pods) expect(types(pod)).to.deep.equal(LIFE);
    const after = await counters();
    expect(after.subscribers).to.equal(1);
    expect(after.dropped - before.dropped).to.be.within(30, 100);
    const end = await stalled.drain();
    expect(end.status, end.message).to.equal(RESOURCE_EXHAUSTED);
    expect(end.message).to.match(/list again/);
    expect(end.messages).to.be.below(10);
  });
});
