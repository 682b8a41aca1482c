import { expect } from 'chai';
import { readFileSync, readdirSync, rmdirSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { demoImage } from '../../hack/images/demo.ts';
import type { StaticRegistry } from '../../hack/images/registry.ts';
import { serveImages } from '../../hack/images/registry.ts';
import { removeCgroup } from '../../src/os/cgroup.ts';
import { Gantry } from '../lib/gantry.ts';
import { TEST_CGROUP } from '../lib/leaks.ts';
import { size } from '../lib/size.ts';
import { allAddresses, ofPods } from '../lib/warm.ts';

const KILLS = size('KILLS', 10, 50);

/** The daemon is killed; what it made goes on, and what it began is finished or undone (R1, R3, R6, R7, R30). */
describe('restart', function () {
  this.timeout(180_000 + KILLS * 5000);
  let registry: StaticRegistry;
  let gantry: Gantry;
  let image: string;

  before(async () => {
    registry = await serveImages(new Map([['demo:1', await demoImage()]]));
    image = `${registry.host}/demo:1`;
    gantry = new Gantry({ subnet: 7 });
    await gantry.start();
    await gantry.cri.image('pullImage', { image: { image } });
  });
  after(async () => {
    await gantry.remove();
    await removeCgroup(`/${TEST_CGROUP}`);
    await registry[Symbol.asyncDispose]();
  });

  const run = async (name: string, command: string, attempt = 0): Promise<{ podSandboxId: string; containerId: string }> => {
    const config = {
      metadata: { name, namespace: 'default', uid: name, attempt },
      linux: { cgroupParent: `/${TEST_CGROUP}/${name}`, securityContext: { namespaceOptions: { pid: 'CONTAINER' as const } } },
    };
    const { podSandboxId } = await gantry.cri.runtime('runPodSandbox', { config });
    const { containerId } = await gantry.cri.runtime('createContainer', {
      podSandboxId,
      sandboxConfig: config,
      config: { metadata: { name: 'app', attempt: 0 }, image: { image }, command: ['sh', '-c', command] },
    });
    await gantry.cri.runtime('startContainer', { containerId });
    return { podSandboxId, containerId };
  };
  const everything = async (): Promise<string> => {
    const { items } = await gantry.cri.runtime('listPodSandbox', {});
    const { containers } = await gantry.cri.runtime('listContainers', {});
    const pods = await Promise.all(
      items.map(({ id }: { id: string }) => gantry.cri.runtime('podSandboxStatus', { podSandboxId: id, verbose: true })),
    );
    const each = await Promise.all(
      containers.map(({ id }: { id: string }) => gantry.cri.runtime('containerStatus', { containerId: id, verbose: true })),
    );
    const { images } = await gantry.cri.image('listImages', {});
    return JSON.stringify({ items, containers, pods: pods.map((pod) => ({ ...pod, timestamp: '' })), each, images });
  };
  const restart = async (): Promise<void> => {
    await gantry.kill();
    await gantry.start();
  };

  it('finds everything as it was, under the same pids', async () => {
    await run('same', 'trap exit TERM; sleep 1000 & wait');
    const before = await everything();
    expect(before).to.match(/\\"pid\\":[1-9]/);
    await restart();
    expect(await everything()).to.equal(before);
    await gantry.removePods();
  });

  it('reports an exit that happened while nobody was there, with its code and time', async () => {
    const { containerId } = await run('exits', 'sleep 1; exit 7');
    await gantry.kill();
    await sleep(2500);
    const startedMs = Date.now();
    await gantry.start();
    await sleep(300);
    const { status } = await gantry.cri.runtime('containerStatus', { containerId });
    expect(status).to.include({ state: 'CONTAINER_EXITED', exitCode: 7 });
    expect(Number(BigInt(status?.finishedAt ?? 0) / 1_000_000n)).to.be.lessThan(startedMs - 500);
    await gantry.removePods();
  });

  it('starts with records that are broken, lists them, and can remove them', async () => {
    const { podSandboxId, containerId } = await run('broken', 'sleep 1000');
    const other = await run('whole', 'sleep 1000');
    await gantry.kill();
    truncateSync(join(gantry.root, 'sandboxes', `${podSandboxId}.json`), 20);
    writeFileSync(join(gantry.root, 'containers', `${containerId}.json`), '');
    await gantry.start();
    const { items } = await gantry.cri.runtime('listPodSandbox', {});
    expect(items.map(({ id, state }: { id: string; state: string }) => `${id} ${state}`)).to.have.members([
      `${podSandboxId} SANDBOX_NOTREADY`,
      `${other.podSandboxId} SANDBOX_READY`,
    ]);
    await gantry.cri.runtime('removeContainer', { containerId });
    await gantry.removePods();
    expect((await gantry.cri.runtime('listContainers', {})).containers).to.deep.equal([]);
    // What the record said of the pod's own cgroup is lost: a kubelet removes it. It must be empty.
    rmdirSync(`/sys/fs/cgroup/memory/${TEST_CGROUP}/broken`);
    await removeCgroup(`/${TEST_CGROUP}/broken`);
  });

  it(`leaves nothing after ${KILLS} kills at any moment of pods that come and go`, async () => {
    for (let round = 0; round < KILLS; round++) {
      let ended = false;
      const loop = async (lane: number): Promise<void> => {
        for (let attempt = 0; !ended; attempt++) {
          const { podSandboxId, containerId } = await run(`loop-${round}-${lane}`, 'sleep 1000', attempt);
          await gantry.cri.runtime('stopContainer', { containerId, timeout: 0 });
          await gantry.cri.runtime('stopPodSandbox', { podSandboxId });
          await gantry.cri.runtime('removePodSandbox', { podSandboxId });
        }
      };
      const lanes = [0, 1].map((lane) => loop(lane).catch(() => undefined));
      await sleep(50 + Math.random() * 700);
      ended = true;
      await gantry.kill();
      await gantry.start();
      await Promise.all(lanes);
    }
    for (let tries = 0; tries < 20; tries++) {
      await gantry.removePods();
      if (remains(gantry).length === 0) break;
      await sleep(500);
    }
    expect(remains(gantry)).to.deep.equal([]);
  });
});

const remains = (gantry: Gantry): string[] => ofPods(gantry, () => allRemains(gantry));

function allRemains(gantry: Gantry): string[] {
  const mounts = readFileSync('/proc/self/mountinfo', 'utf8')
    .split('\n')
    .flatMap((line) => line.split(' ')[4] ?? [])
    .filter((path) => path.startsWith(`${gantry.state}/`));
  const dirs = ['pods', 'containers'].flatMap((name) => readdirSync(join(gantry.state, name)).map((id) => `${name}/${id}`));
  const records = ['sandboxes', 'containers'].flatMap((name) => readdirSync(join(gantry.root, name)).map((file) => `${name}/${file}`));
  const monitors = readdirSync('/proc').filter((pid) => {
    if (!/^\d+$/.test(pid)) return false;
    try {
      return readFileSync(`/proc/${pid}/cmdline`, 'utf8').includes(gantry.state) && Number(pid) !== gantry.pid;
    } catch {
      return false;
    }
  });
  const addresses = allAddresses(gantry).map(({ name }) => name);
  const veths = readdirSync('/sys/class/net').filter((name) => name.startsWith('veth'));
  const snapshots = readdirSync(join(gantry.snapshots, 'active')).map((name) => `snapshot ${name}`);
  const cgroups = readdirSync(`/sys/fs/cgroup/memory/${TEST_CGROUP}`, { withFileTypes: true }).flatMap((entry) =>
    entry.isDirectory() ? [`cgroup ${entry.name}`] : [],
  );
  return [...mounts, ...dirs, ...records, ...monitors.map((pid) => `process ${pid}`), ...addresses, ...veths, ...snapshots, ...cgroups];
}
