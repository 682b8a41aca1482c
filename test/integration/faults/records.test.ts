import { copyFileSync, existsSync, readdirSync, readFileSync, rmSync, statSync, truncateSync, writeFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { expect } from 'chai';
import type { PodSandboxConfig } from '../../../src/gen/cri/runtime/v1/PodSandboxConfig.ts';
import { mount, mountsUnder, umount } from '../../../src/os/mount.ts';
import { descendantsOf, processRef } from '../../../src/os/process.ts';
import { Bed, DEMO_IMAGE, eventually } from '../../lib/bed.ts';
import { addresses, remains } from '../../lib/faults.ts';
import { size } from '../../lib/size.ts';

const KILLS = size('STOP_KILLS', 10, 5000);
const READY_MS = 5000;
const PATIENT = 'trap exit TERM; sleep 1000 & wait';
const BOOT_ID = '/proc/sys/kernel/random/boot_id';

interface Pod {
  readonly config: PodSandboxConfig;
  readonly pod: string;
  readonly container: string;
}

/** Damaged files, a machine that was rebooted, a daemon killed in the middle of Stop and Remove (R4, R6, R7). */
describe('faults: records', function () {
  this.timeout(90_000 + KILLS * 3000);
  let bed: Bed;

  before(async () => {
    bed = await Bed.make({ subnet: 23 });
  });
  after(() => bed.end());

  async function run(name: string, pid: 'CONTAINER' | 'POD' = 'CONTAINER'): Promise<Pod> {
    const config = bed.podConfig(name, { linux: { securityContext: { namespaceOptions: { pid } } } });
    const pod = await bed.runPod(config);
    return { config, pod, container: await bed.runContainer(pod, config, bed.containerConfig('app', PATIENT)) };
  }
  const pods = async (): Promise<Map<string, string>> =>
    new Map((await bed.cri.runtime('listPodSandbox', {})).items.map(({ id, state }) => [id, state]));
  const containers = async (): Promise<Map<string, string>> =>
    new Map((await bed.cri.runtime('listContainers', {})).containers.map(({ id, state }) => [id, state]));
  async function removeAll(): Promise<void> {
    await bed.gantry.removePods();
    for (const containerId of (await containers()).keys()) await bed.cri.runtime('removeContainer', { containerId });
  }
  async function readyMs(): Promise<number> {
    const fromMs = Date.now();
    await bed.gantry.start();
    return Date.now() - fromMs;
  }

  describe('R6: records that are damaged', () => {
    const recordPath = (kind: string, id: string): string => join(bed.gantry.root, kind, `${id}.json`);
    const damages: ReadonlyArray<readonly [string, (path: string) => void]> = [
      ['empty', (path) => truncateSync(path)],
      ['half', (path) => truncateSync(path, Math.floor(statSync(path).size / 2))],
      ['garbage', (path) => writeFileSync(path, Buffer.from([0xff, 0, 0x7b, 0xfe]))],
      ['another object', (path) => writeFileSync(path, '{"version": 1, "id": 7, "state": [], "config": {"metadata": {"name": "x"}}}')],
      ['deleted', (path) => rmSync(path)],
      ['twice', (path) => copyFileSync(path, join(path, '..', `${'d'.repeat(64)}.json`))],
      ['copied aside', (path) => copyFileSync(path, path.replace(/\.json$/, ' (copy).json'))],
    ];
    it('the daemon is ready in 5 s, others are untouched, what is broken is listed and can be removed', async () => {
      const twin = 'd'.repeat(64);
      const whole = await run('whole');
      const broken = await Promise.all(
        damages.map(async ([what, damage], n) => ({
          what,
          damage,
          brokenPod: await run(`pod-${n}`, n % 2 === 0 ? 'POD' : 'CONTAINER'),
          brokenContainer: await run(`container-${n}`),
        })),
      );
      await bed.gantry.kill();
      for (const { damage, brokenPod, brokenContainer } of broken) {
        damage(recordPath('sandboxes', brokenPod.pod));
        damage(recordPath('containers', brokenContainer.container));
      }
      expect(await readyMs()).to.be.below(READY_MS);

      const [listedPods, listedContainers] = [await pods(), await containers()];
      for (const { what, brokenPod, brokenContainer } of broken) {
        const isCopy = what === 'twice' || what === 'copied aside';
        expect(listedPods.get(brokenPod.pod), what).to.equal(isCopy ? 'SANDBOX_READY' : 'SANDBOX_NOTREADY');
        expect(listedContainers.get(brokenPod.container), what).to.equal('CONTAINER_RUNNING');
        expect(listedPods.get(brokenContainer.pod), what).to.equal('SANDBOX_READY');
        expect(listedContainers.get(brokenContainer.container), what).to.equal(isCopy ? 'CONTAINER_RUNNING' : 'CONTAINER_UNKNOWN');
      }
      expect([listedPods.get(twin), listedContainers.get(twin)]).to.deep.equal(['SANDBOX_NOTREADY', 'CONTAINER_UNKNOWN']);
      expect(listedPods.get(whole.pod)).to.equal('SANDBOX_READY');
      const { exitCode } = await bed.cri.runtime('execSync', { containerId: whole.container, cmd: ['true'], timeout: '5' });
      expect(exitCode).to.equal(0);

      // What was a pod's goes with it, also when its own record is lost.
      await bed.gantry.removePods();
      expect([...(await containers()).keys()]).to.deep.equal([twin]);
      await removeAll();
      expect(remains(bed.gantry).filter((each) => !each.endsWith('.broken'))).to.deep.equal([]);
      await bed.gantry.kill();
      await bed.gantry.start();
      expect([...(await pods()), ...(await containers())]).to.deep.equal([]);
      for (const kind of ['sandboxes', 'containers'])
        for (const name of readdirSync(join(bed.gantry.root, kind))) rmSync(join(bed.gantry.root, kind, name));
    });

    it('of images, layers and snapshots, one after the other: the daemon starts, and a pod can be run', async () => {
      await run('kept');
      await bed.gantry.stop();
      const files = filesBelow(bed.gantry.root).filter((path) => /\/(images|snapshots)\/.*\.json$/.test(path) && !path.includes('/fs/'));
      expect(files.map((path) => basename(path))).to.include.members(['layer.json', 'snapshot.json']);
      for (const path of files) {
        const before = readFileSync(path);
        truncateSync(path, Math.floor(before.length / 2));
        expect(await readyMs(), path).to.be.below(READY_MS);
        await bed.cri.runtime('listContainers', {});
        await bed.cri.image('pullImage', { image: { image: DEMO_IMAGE } });
        const { pod } = await run('new');
        await bed.cri.runtime('removePodSandbox', { podSandboxId: pod });
        await bed.gantry.stop();
      }
      await bed.gantry.start();
      await removeAll();
      await bed.cri.image('pullImage', { image: { image: DEMO_IMAGE } });
    });
  });

  describe('R4: reboot', () => {
    for (const [how, bootId] of [
      ['with another boot id', true],
      ['the state directory alone is wiped', false],
    ] as const) {
      it(`${how}: pods are NotReady, containers exited, all can be removed, no address stays`, async () => {
        const made = [await run('own-pid'), await run('shared-pid', 'POD')];
        expect(addresses(bed.gantry)).to.have.length(2);
        const daemon = bed.gantry.pid;
        const families = descendantsOf(daemon);
        await bed.gantry.stop();
        await powerOff(families);
        if (bootId) await anotherBootId(bed.gantry.dir);
        try {
          expect(await readyMs()).to.be.below(READY_MS);
          await eventually('the containers are exited', async () =>
            [...(await containers()).values()].every((state) => state === 'CONTAINER_EXITED'),
          );
          expect([...(await pods())].sort()).to.deep.equal(made.map(({ pod }) => [pod, 'SANDBOX_NOTREADY']).sort());
          expect((await containers()).size).to.equal(2);
          const again = await run('again');
          expect((await pods()).get(again.pod)).to.equal('SANDBOX_READY');
          for (const { pod } of made) {
            await bed.cri.runtime('stopPodSandbox', { podSandboxId: pod });
            await bed.cri.runtime('removePodSandbox', { podSandboxId: pod });
          }
          expect(addresses(bed.gantry)).to.have.length(1);
          await removeAll();
          expect(remains(bed.gantry)).to.deep.equal([]);
        } finally {
          if (bootId) await umount(BOOT_ID, { detach: true });
          await bed.gantry.stop();
          await bed.gantry.start();
        }
      });
    }

    it('records lost with it: addresses and writable layers are released at the start', async () => {
      await run('lost');
      const families = descendantsOf(bed.gantry.pid);
      await bed.gantry.stop();
      await powerOff(families);
      for (const kind of ['sandboxes', 'containers'])
        for (const name of readdirSync(join(bed.gantry.root, kind))) rmSync(join(bed.gantry.root, kind, name));
      await bed.gantry.start();
      expect([...(await pods()), ...(await containers())]).to.deep.equal([]);
      await eventually('nothing is left', () => remains(bed.gantry).length === 0);
    });
  });

  /** What a reboot does to a pod: its processes, its mounts and the state directory end, its cgroups with them. */
  async function powerOff(families: ReturnType<typeof descendantsOf>): Promise<void> {
    for (const { pid } of families) {
      try {
        process.kill(pid, 'SIGKILL');
      } catch {
        // it is gone
      }
    }
    await eventually('all processes are gone', () => families.every(({ pid }) => isGone(pid)));
    for (const path of mountsUnder(bed.gantry.state)) await umount(path, { detach: true });
    rmSync(bed.gantry.state, { recursive: true });
  }

  it(`R7: the daemon is killed at ${KILLS} points of Stop and Remove: exits are seen, Stop and Remove succeed`, async () => {
    for (let round = 0; round < KILLS; round++) {
      const { pod, container } = await run('killed', round % 2 === 0 ? 'CONTAINER' : 'POD');
      const calls = [
        bed.cri.runtime('stopContainer', { containerId: container, timeout: String(round % 3) }),
        sleep(Math.random() * 30).then(() => bed.cri.runtime('stopPodSandbox', { podSandboxId: pod })),
        sleep(Math.random() * 60).then(() => bed.cri.runtime('removePodSandbox', { podSandboxId: pod })),
      ].map((call) => call.catch(() => undefined));
      await sleep(Math.random() * 150);
      await bed.gantry.kill();
      await Promise.all(calls);
      expect(await readyMs()).to.be.below(READY_MS);
      await bed.cri.runtime('stopContainer', { containerId: container, timeout: '0' });
      await eventually('it is exited or gone', async () => ['CONTAINER_EXITED', undefined].includes((await containers()).get(container)));
      await bed.cri.runtime('stopPodSandbox', { podSandboxId: pod });
      await bed.cri.runtime('removePodSandbox', { podSandboxId: pod });
      expect(await pods()).to.deep.equal(new Map());
      expect(remains(bed.gantry), `round ${round}`).to.deep.equal([]);
    }
  });
});

function isGone(pid: number): boolean {
  try {
    return processRef(pid) === undefined || readFileSync(`/proc/${pid}/stat`, 'latin1').includes(') Z');
  } catch {
    // Between the two looks.
    return true;
  }
}

/** The daemon reads the kernel's; here a file lies over it. */
async function anotherBootId(dir: string): Promise<void> {
  const file = join(dir, 'boot_id');
  writeFileSync(file, '00000000-0000-4000-8000-000000000000\n');
  mount({ type: '', source: file, target: BOOT_ID, flags: ['bind'] });
}

function filesBelow(dir: string): string[] {
  if (!existsSync(dir)) return [];
  return readdirSync(dir, { withFileTypes: true }).flatMap((entry) => {
    const path = join(dir, entry.name);
    return entry.isDirectory() ? filesBelow(path) : entry.isFile() ? [path] : [];
  });
}
