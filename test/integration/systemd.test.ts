import { existsSync, readFileSync } from 'node:fs';
import { expect } from 'chai';
import { execa } from 'execa';
import { cgroupMode, cgroupOf } from '../../src/os/cgroup.ts';
import type { PodSandboxConfig } from '../../src/gen/cri/runtime/v1/PodSandboxConfig.ts';
import { Bed, eventually } from '../lib/bed.ts';

/** As a kubelet with the systemd driver names a pod's slice. */
const SLICE = '/gantrytest.slice/gantrytest-pod1.slice';

/** Where systemd is process 1 and sees the same process ids as we do: on a node, in hack/vm, not in hack/private. */
const systemdRuns = existsSync('/run/systemd/private') && readFileSync('/proc/1/comm', 'utf8').trim() === 'systemd';

describe('cgroups by systemd', function () {
  this.timeout(300_000);
  let bed: Bed;
  let config: PodSandboxConfig;

  before(async function () {
    if (!systemdRuns) return this.skip();
    bed = await Bed.make({ subnet: 8, flags: ['--cgroup-driver', 'systemd'] });
    config = bed.podConfig('sliced', {
      linux: { cgroupParent: SLICE, securityContext: { namespaceOptions: { pid: 'CONTAINER' } } },
    });
  });
  after(async () => {
    if (!systemdRuns) return;
    await bed.end();
    await execa('systemctl', ['stop', 'gantrytest.slice'], { reject: false });
  });

  const limitOf = (path: string): string =>
    readFileSync(
      cgroupMode() === 'v2' ? `/sys/fs/cgroup${path}/memory.max` : `/sys/fs/cgroup/memory${path}/memory.limit_in_bytes`,
      'utf8',
    ).trim();
  const units = async (id: string): Promise<string> =>
    (await execa('systemctl', ['list-units', '--all', '--plain', '--no-legend', `*${id}*`])).stdout;

  it('says so to the kubelet', async () => {
    expect((await bed.cri.runtime('runtimeConfig', {})).linux?.cgroupDriver).to.equal('SYSTEMD');
  });

  it('puts a container into a scope of its pod’s slice, with its limits, and takes it away again', async () => {
    const pod = await bed.runPod(config);
    const limits = { linux: { resources: { memoryLimitInBytes: String(64 << 20) } } };
    const id = await bed.runContainer(pod, config, bed.containerConfig('app', 'trap exit TERM; sleep 1000 & wait', limits));
    const path = cgroupOf(await bed.pidOf(id)) ?? '';
    expect(path).to.equal(`${SLICE}/gantry-${id}.scope`);
    expect(limitOf(path)).to.equal(String(64 << 20));
    expect(await units(id)).to.include(`gantry-${id}.scope`);

    await bed.cri.runtime('updateContainerResources', { containerId: id, linux: { memoryLimitInBytes: String(96 << 20) } });
    expect(limitOf(path)).to.equal(String(96 << 20));
    const { stats } = await bed.cri.runtime('containerStats', { containerId: id });
    expect(Number(stats?.memory?.workingSetBytes?.value)).to.be.greaterThan(0);

    const timeout = await bed.cri
      .runtime('execSync', { containerId: id, cmd: ['sh', '-c', 'setsid sleep 4321 & sleep 1000'], timeout: '1' })
      .then(
        () => 'answered',
        (error: unknown) => String(error),
      );
    expect(timeout).to.match(/DEADLINE_EXCEEDED|timed out/);
    const { stdout } = await bed.cri.runtime('execSync', { containerId: id, cmd: ['sh', '-c', 'ps | grep -c "[s]leep 4321"; true'] });
    expect(stdout.toString().trim()).to.equal('0');

    await bed.gantry.kill();
    await bed.gantry.start();
    expect((await bed.status(id)).state).to.equal('CONTAINER_RUNNING');

    await bed.cri.runtime('stopContainer', { containerId: id, timeout: '5' });
    expect((await bed.status(id)).state).to.equal('CONTAINER_EXITED');
    await bed.cri.runtime('stopPodSandbox', { podSandboxId: pod });
    await bed.cri.runtime('removePodSandbox', { podSandboxId: pod });
    await eventually('the scope is gone', async () => (await units(id)) === '', 30_000);
  });

  it('tells a memory hog from others', async () => {
    const pod = await bed.runPod({ ...config, metadata: { ...config.metadata, name: 'hog', uid: 'hog' } });
    const limits = { linux: { resources: { memoryLimitInBytes: String(32 << 20) } } };
    const id = await bed.runContainer(pod, config, bed.containerConfig('hog', 'x=a; while :; do x=$x$x; done', limits));
    await eventually('it has ended', async () => (await bed.status(id)).state === 'CONTAINER_EXITED', 120_000);
    expect(await bed.status(id)).to.include({ reason: 'OOMKilled', exitCode: 137 });
  });
});
