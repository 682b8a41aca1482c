import { expect } from 'chai';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { PodSandboxConfig } from '../../../src/gen/cri/runtime/v1/PodSandboxConfig.ts';
import { mount, umount } from '../../../src/os/mount.ts';
import { Bed, CGROUP, eventually } from '../../lib/bed.ts';
import type { Faulty } from '../../lib/faults.ts';
import { addresses, failure, faultyPlugin, faultyUnknownRuntime, remains } from '../../lib/faults.ts';

const PATIENT = 'trap "exit 0" TERM; sleep 1000 & wait';
const DEAF = 'trap "" TERM; while :; do sleep 1; done';

/** Calls that overtake each other, clients that go away in the middle, a disk that is full (R1, R3, R7, R11). */
describe('faults: races', function () {
  this.timeout(60_000);
  let dir: string;
  let runtime: Faulty;
  let bridge: Faulty;
  let bed: Bed;

  before(async () => {
    dir = mkdtempSync(join(tmpdir(), 'races-'));
    runtime = faultyUnknownRuntime(join(dir, 'programs'));
    bridge = faultyPlugin(join(dir, 'plugins'), 'bridge');
    // Root, state and logs on one small disk.
    mkdirSync(join(dir, 'disk'));
    mount({ type: 'tmpfs', source: 'disk', target: join(dir, 'disk'), data: 'size=256m' });
    bed = await Bed.make({
      dir: join(dir, 'disk', 'gantry'),
      logPath: join(dir, 'gantry.log'),
      subnet: 26,
      pluginDir: join(dir, 'plugins'),
      flags: ['--handler', `faulty=${runtime.path}`],
      config: 'sandbox.warm = 0\n',
    });
  });
  afterEach('leaves nothing', async () => {
    runtime.heal();
    bridge.heal();
    await bed.gantry.removePods();
    expect(remains(bed.gantry)).to.deep.equal([]);
  });
  after(async () => {
    await bed.end();
    await umount(join(dir, 'disk'));
    rmSync(dir, { recursive: true });
  });

  const podConfig = (name: string, change: PodSandboxConfig = {}): PodSandboxConfig => {
    const config = bed.podConfig(name, change);
    return { ...config, linux: { ...config.linux, securityContext: { namespaceOptions: { pid: 'CONTAINER' } } } };
  };

  it('R7: the daemon is killed while a container is started: it is running afterwards', async () => {
    const config = podConfig('started');
    const podSandboxId = await bed.runPod(config, 'faulty');
    const { containerId } = await bed.cri.runtime('createContainer', {
      podSandboxId,
      config: bed.containerConfig('app', `echo up; ${PATIENT}`),
      sandboxConfig: config,
    });
    const real = /exec (\S+) "\$@"/.exec(readFileSync(runtime.path, 'utf8'))?.[1] ?? '';
    runtime.inject(`[ "$verb" != start ] || { ${real} "$@"; ${runtime.stall(30)}; }`);
    const starting = failure(bed.cri.runtime('startContainer', { containerId }));
    await eventually('it runs', () => bed.logOf('started', 'app').includes('up'));
    await bed.gantry.kill();
    await starting;
    runtime.heal();
    await bed.gantry.start();
    expect((await bed.status(containerId)).state).to.equal('CONTAINER_RUNNING');
    await bed.cri.runtime('stopContainer', { containerId, timeout: '10' });
    expect((await bed.status(containerId)).exitCode).to.equal(0);
  });

  it('R1: a client that goes away while its container is started does not end it', async () => {
    const config = podConfig('left');
    const podSandboxId = await bed.runPod(config, 'faulty');
    const { containerId } = await bed.cri.runtime('createContainer', {
      podSandboxId,
      config: bed.containerConfig('app', PATIENT),
      sandboxConfig: config,
    });
    runtime.inject(`[ "$verb" != start ] || { ${runtime.stall(2)}; }`);
    await failure(bed.cri.runtime('startContainer', { containerId }, 1000));
    await sleep(2000);
    expect((await bed.status(containerId)).state).to.equal('CONTAINER_RUNNING');
  });

  it('R3: StopPodSandbox whose DEL takes longer than its client waits is finished all the same', async () => {
    const podSandboxId = await bed.runPod(podConfig('slow-del'), 'faulty');
    bridge.inject(`[ $CNI_COMMAND != DEL ] || { echo . >>${dir}/dels; ${bridge.stall(3)}; }`);
    for (let tries = 0; tries < 6; tries++) {
      const done = await bed.cri.runtime('stopPodSandbox', { podSandboxId }, 1000).then(
        () => true,
        () => false,
      );
      if (done) break;
    }
    expect(addresses(bed.gantry)).to.deep.equal([]);
    expect(readFileSync(`${dir}/dels`, 'utf8').trim().split('\n')).to.have.length(1);
  });

  it('pods that share a cgroup can go one by one, and the last takes it along', async () => {
    const shared = { linux: { cgroupParent: `${CGROUP}/shared` } };
    const first = podConfig('first', shared);
    const second = podConfig('second', shared);
    const [one, two] = [await bed.runPod(first), await bed.runPod(second)];
    const container = await bed.runContainer(two, second, bed.containerConfig('app', PATIENT));
    await bed.cri.runtime('stopPodSandbox', { podSandboxId: one });
    await bed.cri.runtime('removePodSandbox', { podSandboxId: one });
    expect((await bed.status(container)).state).to.equal('CONTAINER_RUNNING');
    await bed.cri.runtime('stopPodSandbox', { podSandboxId: two });
    await bed.cri.runtime('removePodSandbox', { podSandboxId: two });
    expect(existsSync(`/sys/fs/cgroup/memory${CGROUP}/shared`)).to.equal(false);
  });

  it('R6: what was made by a handler that is not configured any more runs on, and can be stopped and removed', async () => {
    const config = podConfig('orphaned');
    await bed.gantry.stop();
    await bed.gantry.start({}, ['--handler', `gone=${runtime.path}`]);
    const podSandboxId = await bed.runPod(config, 'gone');
    const containerId = await bed.runContainer(podSandboxId, config, bed.containerConfig('app', PATIENT));
    await bed.gantry.stop();
    await bed.gantry.start();
    expect((await failure(bed.runPod(podConfig('refused'), 'gone'))).details).to.match(/unknown handler "gone"/);
    expect((await bed.status(containerId)).state).to.equal('CONTAINER_RUNNING');
    await bed.cri.runtime('stopContainer', { containerId, timeout: '10' });
    expect((await bed.status(containerId)).exitCode).to.equal(0);
    await bed.cri.runtime('stopPodSandbox', { podSandboxId });
    await bed.cri.runtime('removePodSandbox', { podSandboxId });
  });

  it('R12: a second stop does not send the signal again, and its shorter grace period counts', async () => {
    const config = podConfig('signalled');
    const podSandboxId = await bed.runPod(config, 'faulty');
    const script = 'trap "echo term" TERM; echo up; while :; do sleep 0.1; done';
    const containerId = await bed.runContainer(podSandboxId, config, bed.containerConfig('app', script));
    await eventually('it is up', () => bed.logOf('signalled', 'app') === 'up\n');
    const first = bed.cri.runtime('stopContainer', { containerId, timeout: '30' });
    await eventually('it is told', () => bed.logOf('signalled', 'app').endsWith('term\n'));
    await bed.cri.runtime('stopContainer', { containerId, timeout: '1' });
    await first;
    expect(bed.logOf('signalled', 'app')).to.equal('up\nterm\n');
  });

  it('R11: pods can be stopped and removed on a full disk', async () => {
    const config = podConfig('full');
    const podSandboxId = await bed.runPod(config, 'faulty');
    const ids: string[] = [];
    for (const [name, script] of Object.entries({ patient: PATIENT, deaf: DEAF }))
      ids.push(await bed.runContainer(podSandboxId, config, bed.containerConfig(name, script)));
    const filler = join(dir, 'disk', 'filler');
    for (let chunk = 1 << 20; chunk > 0; chunk = Math.trunc(chunk / 2)) {
      try {
        for (;;) writeFileSync(filler, Buffer.alloc(chunk), { flag: 'a' });
      } catch {
        continue;
      }
    }
    try {
      for (const containerId of ids) {
        await bed.cri.runtime('stopContainer', { containerId, timeout: '1' });
        await bed.cri.runtime('removeContainer', { containerId });
      }
      await bed.cri.runtime('stopPodSandbox', { podSandboxId });
      await bed.cri.runtime('removePodSandbox', { podSandboxId });
      await bed.gantry.kill();
      await bed.gantry.start();
      expect((await bed.cri.runtime('listPodSandbox', {})).items).to.deep.equal([]);
    } finally {
      rmSync(filler);
    }
  });
});
