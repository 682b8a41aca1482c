import { expect } from 'chai';
import { mkdtempSync, readdirSync, readFileSync, renameSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { ContainerConfig } from '../../../src/gen/cri/runtime/v1/ContainerConfig.ts';
import type { PodSandboxConfig } from '../../../src/gen/cri/runtime/v1/PodSandboxConfig.ts';
import { cgroupOf, createCgroup, setResources } from '../../../src/os/cgroup.ts';
import { descendantsOf, processRef } from '../../../src/os/process.ts';
import { Bed, CGROUP, eventually } from '../../lib/bed.ts';
import type { Faulty } from '../../lib/faults.ts';
import { failure, faultyRuntime, faultyUnknownRuntime, remains } from '../../lib/faults.ts';
import { size } from '../../lib/size.ts';

const MIB = 1024 * 1024;
const OOM_ROUNDS = size('OOM_ROUNDS', 10, 10_000);
const PATIENT = 'trap exit TERM; sleep 1000 & wait';
const DEAF = 'trap "" TERM; while :; do sleep 1; done';

/** Monitors that hang or die, runtimes that hang, memory that runs out (R5, R20-R23). */
describe('faults: monitor and memory', function () {
  this.timeout(60_000 + OOM_ROUNDS * 1000);
  let dir: string;
  let runtime: Faulty;
  let unknown: Faulty;
  let bed: Bed;
  let config: PodSandboxConfig;
  let pod: string;

  before(async () => {
    dir = mkdtempSync(join(tmpdir(), 'programs-'));
    runtime = faultyRuntime(dir);
    unknown = faultyUnknownRuntime(join(dir, 'unknown'));
    bed = await Bed.make({ subnet: 22, flags: ['--handler', `faulty=${runtime.path}`, '--handler', `unknown=${unknown.path}`] });
  });
  beforeEach(async () => {
    config = podConfig('monitored');
    pod = await bed.runPod(config, 'faulty');
  });
  afterEach('leaves nothing', async () => {
    runtime.heal();
    unknown.heal();
    await bed.gantry.removePods();
    expect(remains(bed.gantry)).to.deep.equal([]);
    await eventually('no zombies', () => zombies().length === 0, 3000).catch((error: unknown) => {
      throw new Error(`zombies: ${zombies().join()}`, { cause: error });
    });
  });
  after(async () => {
    await bed.end();
    rmSync(dir, { recursive: true });
  });

  const podConfig = (name: string): PodSandboxConfig =>
    bed.podConfig(name, { linux: { securityContext: { namespaceOptions: { pid: 'CONTAINER' } } } });
  const zombies = (): number[] =>
    descendantsOf(bed.gantry.pid)
      .map(({ pid }) => pid)
      .filter((pid) => readIf(`/proc/${pid}/stat`).replace(/.*\) /s, '').startsWith('Z'));
  const start = (script: string, change: ContainerConfig = {}) => bed.runContainer(pod, config, bed.containerConfig('app', script, change));
  async function monitorOf(containerId: string): Promise<number> {
    const { info } = await bed.fullStatus(containerId);
    return (JSON.parse(String(Object.values(info)[0])) as { monitor: number }).monitor;
  }

  it('R5: conmon under SIGSTOP, again and again: stats go on, stop and remove are done in grace + 30 s', async () => {
    const id = await start(DEAF);
    const monitor = await monitorOf(id);
    const stopped = setInterval(() => signal(monitor, 'SIGSTOP'), 20);
    try {
      const descriptors = (): number => readdirSync(`/proc/${bed.gantry.pid}/fd`).length;
      const before = descriptors();
      for (let n = 0; n < 20; n++) {
        await Promise.all([
          bed.cri.runtime('listContainerStats', {}, 2000),
          bed.cri.runtime('podSandboxStats', { podSandboxId: pod }, 2000),
          bed.cri.runtime('containerStatus', { containerId: id }, 2000),
        ]);
      }
      expect(descriptors()).to.be.below(before + 5);
      const fromMs = Date.now();
      await bed.cri.runtime('stopContainer', { containerId: id, timeout: '1' }, 31_000);
      const { state, exitCode } = await bed.status(id);
      expect({ state, exitCode }).to.deep.equal({ state: 'CONTAINER_EXITED', exitCode: 137 });
      await bed.cri.runtime('stopPodSandbox', { podSandboxId: pod }, 30_000);
      await bed.cri.runtime('removePodSandbox', { podSandboxId: pod }, 30_000);
      console.log(`      stopped and removed in ${Date.now() - fromMs} ms`);
      expect(Date.now() - fromMs).to.be.below(31_000);
      expect(processRef(monitor)).to.equal(undefined);
    } finally {
      clearInterval(stopped);
    }
  });

  for (const verb of ['kill', 'delete']) {
    it(`R5: a runtime that hangs at ${verb}: stop and remove are done in grace + 30 s`, async () => {
      const id = await start(PATIENT);
      runtime.inject(`[ "$verb" != ${verb} ] || { ${runtime.stall(120)}; }`);
      const fromMs = Date.now();
      await bed.cri.runtime('stopContainer', { containerId: id, timeout: '1' }, 31_000);
      expect((await bed.status(id)).state).to.equal('CONTAINER_EXITED');
      await bed.cri.runtime('stopPodSandbox', { podSandboxId: pod }, 30_000);
      await bed.cri.runtime('removePodSandbox', { podSandboxId: pod }, 30_000);
      console.log(`      stopped and removed in ${Date.now() - fromMs} ms`);
      expect(Date.now() - fromMs).to.be.below(31_000);
    });
  }

  it('R5: a runtime that hangs at exec is ended at its timeout; probes that come meanwhile leave nothing', async () => {
    const id = await start(PATIENT);
    runtime.inject(`[ "$verb" != exec ] || { ${runtime.stall(120)}; }`);
    const theirs = (): number => descendantsOf(bed.gantry.pid).length;
    await eventually('conmon, the shell and its sleep run', () => theirs() === 3);
    const probes = Array.from({ length: 8 }, () =>
      failure(bed.cri.runtime('execSync', { containerId: id, cmd: ['true'], timeout: '1' })).then(({ details }) => details),
    );
    for (const details of await Promise.all(probes)) expect(details).to.match(/timed out after 1000 ms/);
    await eventually('no process is left', () => theirs() === 3);
    runtime.heal();
    const { exitCode } = await bed.cri.runtime('execSync', { containerId: id, cmd: ['true'], timeout: '5' });
    expect(exitCode).to.equal(0);
  });

  it('R5: a runtime that hangs at start: the call ends at its deadline, and the pod can go', async () => {
    const other = podConfig('hangs');
    const { containerId } = await bed.cri.runtime('createContainer', {
      podSandboxId: await bed.runPod(other, 'unknown'),
      config: bed.containerConfig('app', PATIENT),
      sandboxConfig: other,
    });
    unknown.inject(`[ "$verb" != start ] || { ${unknown.stall(120)}; }`);
    expect((await failure(bed.cri.runtime('startContainer', { containerId }, 1000))).details).to.match(/stage runtime start/);
    await eventually('it is known not to run', async () => (await bed.status(containerId)).state === 'CONTAINER_EXITED');
  });

  it('R25: a reopened log whose monitor dies over it is told at once, and no file is left', async () => {
    const id = await start(DEAF);
    const monitor = await monitorOf(id);
    signal(monitor, 'SIGSTOP');
    const logs = join(bed.gantry.dir, 'logs', 'monitored');
    renameSync(join(logs, 'app.log'), join(logs, 'app.log.1'));
    const reopening = failure(bed.cri.runtime('reopenContainerLog', { containerId: id }, 10_000));
    await sleep(500);
    const fromMs = Date.now();
    signal(monitor, 'SIGKILL');
    expect((await reopening).details).to.match(/monitor/);
    expect(Date.now() - fromMs).to.be.below(2000);
    expect(readdirSync(logs)).to.deep.equal(['app.log.1']);
  });

  it('R21, R22: a monitor that is killed takes its container along, and the status says so', async () => {
    const id = await start(DEAF);
    const [init, monitor] = [await bed.pidOf(id), await monitorOf(id)];
    signal(monitor, 'SIGKILL');
    await eventually('the container is exited', async () => (await bed.status(id)).state === 'CONTAINER_EXITED', 3000);
    expect(processRef(init)).to.equal(undefined);
    expect((await bed.status(id)).exitCode).to.equal(137);
  });

  it('R21: monitor and container both killed while the daemon is away', async () => {
    const id = await start(DEAF);
    const [init, monitor] = [await bed.pidOf(id), await monitorOf(id)];
    await bed.gantry.kill();
    signal(monitor, 'SIGKILL');
    signal(init, 'SIGKILL');
    await bed.gantry.start();
    await eventually('the container is exited', async () => (await bed.status(id)).state === 'CONTAINER_EXITED', 3000);
    expect((await bed.status(id)).exitCode).to.be.above(0);
  });

  it('R20: a pod of 15 MiB starts, its monitor is not in its cgroup and outlives a hog', async () => {
    const small = podConfig('small');
    await createCgroup(`${CGROUP}/small`);
    await setResources(`${CGROUP}/small`, { memoryLimitBytes: 15 * MIB });
    const smallPod = await bed.runPod(small);
    const id = await bed.runContainer(smallPod, small, bed.containerConfig('app', 'tail /dev/zero & wait $!; sleep 1000'));
    const monitor = await monitorOf(id);
    expect(cgroupOf(await bed.pidOf(id))).to.match(new RegExp(`^${CGROUP}/small/`));
    expect(cgroupOf(monitor)).not.to.include(CGROUP);
    await sleep(1000);
    expect(processRef(monitor)).not.to.equal(undefined);
  });

  const limited = (memoryLimitMib: number): ContainerConfig => ({
    linux: { resources: { memoryLimitInBytes: String(memoryLimitMib * MIB) } },
  });

  it(`R23: OOMKilled is said in ${OOM_ROUNDS} of ${OOM_ROUNDS} rounds`, async () => {
    for (let done = 0; done < OOM_ROUNDS; done += 10) {
      const reasons = await Promise.all(
        Array.from({ length: 10 }, async (_, n) => {
          const name = `hog-${done + n}`;
          const id = await bed.runContainer(pod, config, bed.containerConfig(name, 'exec tail /dev/zero', limited(16)));
          await eventually(`${name} has ended`, async () => (await bed.status(id)).state === 'CONTAINER_EXITED', 20_000);
          const { reason, exitCode } = await bed.status(id);
          await bed.cri.runtime('removeContainer', { containerId: id });
          return `${reason} ${exitCode}`;
        }),
      );
      expect(new Set(reasons)).to.deep.equal(new Set(['OOMKilled 137']));
    }
  });

  it('R23: an OOM of a child alone does not mark the container, nor does our own kill of one that had such a child', async () => {
    const survivor = 'tail /dev/zero & wait $!; echo $?; trap "exit 3" TERM; sleep 1000 & wait';
    const id = await start(survivor, limited(16));
    await eventually('the child was killed', () => bed.logOf('monitored', 'app').includes('137'), 20_000);
    expect((await bed.status(id)).state).to.equal('CONTAINER_RUNNING');
    await bed.cri.runtime('stopContainer', { containerId: id, timeout: '0' });
    const { reason, exitCode } = await bed.status(id);
    expect({ reason, exitCode }).to.deep.equal({ reason: 'Error', exitCode: 137 });
  });
});

function signal(pid: number, name: NodeJS.Signals): void {
  try {
    process.kill(pid, name);
  } catch {
    // it is gone
  }
}

function readIf(path: string): string {
  try {
    return readFileSync(path, 'latin1');
  } catch {
    return '';
  }
}
