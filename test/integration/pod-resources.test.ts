import { expect } from 'chai';
import { createCgroup, readStats } from '../../src/os/cgroup.ts';
import { Bed, CGROUP } from '../lib/bed.ts';

const INVALID_ARGUMENT = 3;
const NOT_FOUND = 5;
const FAILED_PRECONDITION = 9;
const CONTAINER_PID = { securityContext: { namespaceOptions: { pid: 'CONTAINER' } } } as const;
const MIB = 1 << 20;

/** Pod-level resources (KEP-2837): in the pod's cgroup where it is ours, in the record everywhere. */
describe('pod resources', function () {
  this.timeout(60_000);
  let bed: Bed;
  before(async () => {
    bed = await Bed.make();
  });
  after(async () => {
    await bed?.end();
  });

  const memoryLimitOf = async (name: string): Promise<number | undefined> => (await readStats(`${CGROUP}/${name}`)).memory.limitBytes;
  const told = async (podSandboxId: string): Promise<{ overhead: object | null; resources: object | null }> => {
    const { info } = await bed.cri.runtime('podSandboxStatus', { podSandboxId, verbose: true });
    return JSON.parse(info['info'] ?? '{}') as { overhead: object | null; resources: object | null };
  };
  const codeOf = async (call: Promise<unknown>): Promise<{ code: number; details: string }> =>
    call.then(
      () => ({ code: 0, details: '' }),
      (error: { code: number; details: string }) => ({ code: error.code, details: error.details }),
    );
  const update = (request: Parameters<typeof bed.cri.runtime<'updatePodSandboxResources'>>[1]) =>
    bed.cri.runtime('updatePodSandboxResources', request);

  it('are in force from the start, change, stay after a restart, and go with the pod', async () => {
    const config = bed.podConfig('own', {
      linux: { ...CONTAINER_PID, resources: { memoryLimitInBytes: 64 * MIB, cpuShares: 512 }, overhead: { memoryLimitInBytes: 16 * MIB } },
    });
    // `podConfig` names a cgroup that doesn't exist yet.
    const pod = await bed.runPod(config);
    expect(await memoryLimitOf('own')).to.equal(80 * MIB);
    await bed.runContainer(pod, config, bed.containerConfig('app', 'sleep 1000'));

    await update({ podSandboxId: pod.slice(0, 13), resources: { memoryLimitInBytes: 128 * MIB, cpuQuota: 50_000, cpuPeriod: 100_000 } });
    // The overhead was not mentioned.
    expect(await memoryLimitOf('own')).to.equal(144 * MIB);
    expect((await told(pod)).resources).to.include({ memoryLimitInBytes: String(128 * MIB), cpuQuota: '50000' });
    expect((await told(pod)).overhead).to.include({ memoryLimitInBytes: String(16 * MIB) });

    await bed.gantry.stop();
    await bed.gantry.start();
    expect((await told(pod)).resources).to.include({ memoryLimitInBytes: String(128 * MIB) });
    // The same attempt again is the same pod, though its resources have changed since.
    expect(await bed.runPod(config)).to.equal(pod);

    await update({ podSandboxId: pod, resources: {} });
    expect(await memoryLimitOf('own')).to.equal(undefined);
    await bed.cri.runtime('stopPodSandbox', { podSandboxId: pod });
    expect(await codeOf(update({ podSandboxId: pod, resources: {} }))).to.include({ code: FAILED_PRECONDITION });
    await bed.cri.runtime('removePodSandbox', { podSandboxId: pod });
    expect(await memoryLimitOf('own')).to.equal(undefined);
  });

  it('refuse less memory than is in use, and nothing has changed', async () => {
    const config = bed.podConfig('full', { linux: { ...CONTAINER_PID, resources: { memoryLimitInBytes: 64 * MIB } } });
    const pod = await bed.runPod(config);
    await bed.runContainer(pod, config, bed.containerConfig('app', 'sleep 1000'));
    const refusal = await codeOf(update({ podSandboxId: pod, resources: { memoryLimitInBytes: 4096 } }));
    expect(refusal.code).to.equal(FAILED_PRECONDITION);
    expect(refusal.details).to.match(/memory_limit_in_bytes: \d+ bytes are in use/);
    expect(await memoryLimitOf('full')).to.equal(64 * MIB);
    expect((await told(pod)).resources).to.include({ memoryLimitInBytes: String(64 * MIB) });
  });

  it('leave a cgroup that somebody else made, as kubelet does, to them', async () => {
    await createCgroup(`${CGROUP}/theirs`);
    const pod = await bed.runPod(bed.podConfig('theirs', { linux: { ...CONTAINER_PID, resources: { memoryLimitInBytes: 64 * MIB } } }));
    expect(await memoryLimitOf('theirs')).to.equal(undefined);
    await update({ podSandboxId: pod, overhead: { cpuShares: 2 }, resources: { memoryLimitInBytes: 32 * MIB } });
    expect(await memoryLimitOf('theirs')).to.equal(undefined);
    expect((await told(pod)).resources).to.include({ memoryLimitInBytes: String(32 * MIB) });
    expect((await told(pod)).overhead).to.include({ cpuShares: '2' });
  });

  it('name the field that is negative', async () => {
    const pod = await bed.runPod(bed.podConfig('negative', { linux: CONTAINER_PID }));
    for (const [limits, field] of [
      [{ memoryLimitInBytes: -1 }, 'memory_limit_in_bytes'],
      [{ memorySwapLimitInBytes: -5 }, 'memory_swap_limit_in_bytes'],
      [{ cpuShares: -1 }, 'cpu_shares'],
      [{ cpuPeriod: -1 }, 'cpu_period'],
      [{ cpuQuota: -2 }, 'cpu_quota'],
    ] as const) {
      for (const part of ['overhead', 'resources'] as const) {
        const refusal = await codeOf(update({ podSandboxId: pod, [part]: limits }));
        expect(refusal.code, `${part}.${field}`).to.equal(INVALID_ARGUMENT);
        expect(refusal.details).to.match(new RegExp(`^${part}\\.${field}: `));
        const run = await codeOf(bed.runPod(bed.podConfig('never', { linux: { ...CONTAINER_PID, [part]: limits } })));
        expect(run.code, `config.linux.${part}.${field}`).to.equal(INVALID_ARGUMENT);
        expect(run.details).to.match(new RegExp(`^config\\.linux\\.${part}\\.${field}: `));
      }
    }
    expect(await told(pod)).to.include({ overhead: null, resources: null });
    expect(await codeOf(update({ podSandboxId: 'f'.repeat(64), resources: {} }))).to.include({ code: NOT_FOUND });
    expect((await codeOf(update({ podSandboxId: '', resources: {} }))).code).to.equal(INVALID_ARGUMENT);
  });
});
