import { execFileSync, spawnSync } from 'node:child_process';
import {
  chmodSync,
  closeSync,
  existsSync,
  ftruncateSync,
  linkSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  truncateSync,
  unlinkSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { expect } from 'chai';
import type { Digest } from '../../src/base/digest.ts';
import { silentLogger } from '../../src/base/log.ts';
import type { DiskUsage } from '../../src/os/disk-usage.ts';
import { umount } from '../../src/os/mount.ts';
import type { ProjectCounter } from '../../src/os/project-counter.ts';
import { openProjectCounter } from '../../src/os/project-counter.ts';
import { startReactor, stopReactor } from '../../src/os/reactor.ts';
import { run } from '../../src/os/spawn.ts';
import { createErofsSnapshotter } from '../../src/snapshot/erofs/erofs.ts';
import { createOverlaySnapshotter } from '../../src/snapshot/overlay.ts';
import type { Snapshotter } from '../../src/snapshot/snapshotter.ts';
import { failure, op, SnapshotBed, snapshotterSuite } from '../conformance/snapshotter.ts';
import { Bed, eventually } from '../lib/bed.ts';
import type { Filesystem } from '../lib/quota-disk.ts';
import { QuotaDisk } from '../lib/quota-disk.ts';

const SNAPSHOTTERS = { overlay: createOverlaySnapshotter, erofs: createErofsSnapshotter };
const MIB = 1 << 20;

/** What du says of a snapshot's directory. */
async function onDisk(dir: string): Promise<DiskUsage> {
  const total = async (flag: string): Promise<number> => {
    const { stdout } = await run(op(), { argv: ['du', '-sx', flag, dir] });
    return Number.parseInt(stdout.toString(), 10);
  };
  return { sizeBytes: await total('-B1'), inodes: await total('--inodes') };
}

for (const filesystem of ['ext4', 'xfs'] as Filesystem[])
  describe(`project quotas of ${filesystem}`, function () {
    this.timeout(120_000);
    const why = QuotaDisk.missing(filesystem);
    if (why !== undefined) return void it.skip(`not here: ${why}`);
    let disk: QuotaDisk;
    before(async () => {
      disk = QuotaDisk.make(filesystem);
      await startReactor();
    });
    after(async () => {
      await stopReactor();
      disk[Symbol.dispose]();
    });

    for (const [name, create] of Object.entries(SNAPSHOTTERS)) {
      const open = (root: string): Promise<Snapshotter> => create({ root, log: silentLogger });
      snapshotterSuite(`${name} on ${filesystem}`, { open, below: () => disk.dir });

      describe(`writable layers of ${name}`, () => {
        let bed: SnapshotBed;
        let snapshotter: Snapshotter;
        let counter: ProjectCounter;
        let top: Digest;
        beforeEach(async () => {
          bed = new SnapshotBed(disk.dir);
          snapshotter = await open(bed.root);
          counter = await openProjectCounter(bed.root);
          const many = Array.from({ length: 40 }, (_, n) => ({ name: `dir/${n}`, content: 'x'.repeat(3000 * n) }));
          top = await bed.commit(snapshotter, undefined, [{ name: 'file', content: 'y'.repeat(100_000) }, ...many]);
        });
        afterEach(() => bed.dispose());

        const active = (key: string): string => join(bed.root, 'active', key);
        const writable = async (key: string): Promise<string> => bed.mounted(await snapshotter.prepare(op(), key, top));

        it('are counted, and that is told', () => {
          expect(snapshotter.usageMethod).to.deep.equal({ by: 'project quota' });
        });

        it('take what du says, whatever the overlay moves about', async () => {
          const rootfs = await writable('k');
          const steps: ReadonlyArray<() => void> = [
            () => undefined,
            () => writeFileSync(join(rootfs, 'new'), Buffer.alloc(5 * MIB, 1)),
            () => writeFileSync(join(rootfs, 'file'), 'more', { flag: 'a' }),
            () => linkSync(join(rootfs, 'file'), join(rootfs, 'linked')),
            () => symlinkSync('x'.repeat(200), join(rootfs, 'symlink')),
            () => chmodSync(join(rootfs, 'dir'), 0o700),
            () => mkdirSync(join(rootfs, 'dir/a/b/c'), { recursive: true }),
            () => renameSync(join(rootfs, 'dir/5'), join(rootfs, 'dir/a/b/c/5')),
            () => renameSync(join(rootfs, 'dir/a'), join(rootfs, 'moved')),
            () => rmSync(join(rootfs, 'dir'), { recursive: true }),
            () => mkdirSync(join(rootfs, 'dir')),
            () => truncateSync(join(rootfs, 'new'), 1),
            () => truncateSync(join(rootfs, 'new'), 900 * MIB),
          ];
          for (const [at, step] of steps.entries()) {
            step();
            // What is still to be written to the disk is counted as it is expected to be.
            await run(op(), { argv: ['sync', '-f', bed.root] });
            await eventually(`step ${at}`, async () => {
              const [told, found] = [await snapshotter.usage('k'), await onDisk(active('k'))];
              return told.sizeBytes === found.sizeBytes && told.inodes === found.inodes;
            });
          }
        });

        it('show 50 MiB at once, and not any more when they are truncated', async () => {
          const rootfs = await writable('k');
          const { sizeBytes: before } = await snapshotter.usage('k');
          const added = async (): Promise<number> => (await snapshotter.usage('k')).sizeBytes - before;
          // XFS takes up to as much again ahead of who appends, and counts it.
          const upTo = (bytes: number): number => (filesystem === 'xfs' ? 2 : 1) * bytes + MIB;
          const fd = openSync(join(rootfs, 'big'), 'w');
          for (let n = 0; n < 50; n++) writeSync(fd, Buffer.alloc(MIB, n));
          expect(await added()).to.be.within(50 * MIB, upTo(50 * MIB));
          ftruncateSync(fd);
          expect(await added()).to.be.lessThan(MIB);
          // Nor is a file hidden that nobody can find.
          writeSync(fd, Buffer.alloc(8 * MIB, 1), 0, 8 * MIB, 0);
          unlinkSync(join(rootfs, 'big'));
          expect(await added()).to.be.within(8 * MIB, upTo(8 * MIB));
          closeSync(fd);
          await eventually('it is gone', async () => (await added()) < MIB);
        });

        it('are counted apart, and go on being so after a restart', async () => {
          const [one, two] = [await writable('one'), await writable('two')];
          writeFileSync(join(one, 'a'), Buffer.alloc(2 * MIB, 1));
          const reopened = await open(bed.root);
          writeFileSync(join(two, 'a'), Buffer.alloc(3 * MIB, 1));
          expect((await reopened.usage('one')).sizeBytes).to.be.within(2 * MIB, 2.5 * MIB);
          expect((await reopened.usage('two')).sizeBytes).to.be.within(3 * MIB, 3.5 * MIB);
          await reopened.prepare(op(), 'three', top);
          const ids = await Promise.all(['one', 'two', 'three'].map((key) => counter.idOf(active(key))));
          expect(new Set(ids).size).to.equal(3);
        });

        it('leave nothing counted when they are removed, and the id serves again', async () => {
          const rootfs = await writable('k');
          const id = (await counter.idOf(active('k'))) ?? 0;
          writeFileSync(join(rootfs, 'a'), Buffer.alloc(MIB, 1));
          mkdirSync(join(rootfs, 'b'));
          await umount(rootfs);
          await snapshotter.remove(op(), 'k');
          await eventually('nothing has the id', async () => (await counter.usage(id)).inodes === 0);
          expect(await counter.usage(id)).to.deep.equal({ sizeBytes: 0, inodes: 0 });
          await snapshotter.prepare(op(), 'again', top);
          expect(await counter.idOf(active('again'))).to.equal(id);
        });

        it('of an earlier version, or of a time without quotas, are walked', async () => {
          const plain = await create({ root: bed.root, log: silentLogger, openCounter: () => Promise.reject(new Error('off')) });
          await plain.prepare(op(), 'old', top);
          snapshotter = await open(bed.root);
          const upper = snapshotter.upperDir('old') ?? '';
          writeFileSync(join(upper, 'a'), Buffer.alloc(MIB, 1));
          expect(await counter.idOf(active('old'))).to.equal(undefined);
          expect(await snapshotter.usage('old')).to.deep.equal(await onDisk(upper));
        });

        it('200 of them are asked for without a process', async () => {
          for (let n = 0; n < 200; n++) await snapshotter.prepare(op(), `k${n}`, top);
          const path = process.env['PATH'];
          // Nothing can be found.
          process.env['PATH'] = bed.dir;
          try {
            const startedAtMs = performance.now();
            const usages = await Promise.all(Array.from({ length: 200 }, (_, n) => snapshotter.usage(`k${n}`)));
            const tookMs = performance.now() - startedAtMs;
            for (const { inodes } of usages) expect(inodes).to.equal(4);
            expect(tookMs).to.be.lessThan(1000);
          } finally {
            process.env['PATH'] = path;
          }
        });

        for (const when of ['before', 'after'] as const)
          it(`of a daemon that was killed ${when} one got its id are whole or not there`, async () => {
            const seen = join(bed.dir, 'id');
            const code = `
              import { writeFileSync } from 'node:fs';
              import { silentLogger } from ${JSON.stringify(join(import.meta.dirname, '../../src/base/log.ts'))};
              import { newOp } from ${JSON.stringify(join(import.meta.dirname, '../../src/base/op.ts'))};
              import { openProjectCounter } from ${JSON.stringify(join(import.meta.dirname, '../../src/os/project-counter.ts'))};
              import { startReactor } from ${JSON.stringify(join(import.meta.dirname, '../../src/os/reactor.ts'))};
              import * as overlay from ${JSON.stringify(join(import.meta.dirname, '../../src/snapshot/overlay.ts'))};
              import * as erofs from ${JSON.stringify(join(import.meta.dirname, '../../src/snapshot/erofs/erofs.ts'))};
              await startReactor();
              const snapshotter = await ({ ...overlay, ...erofs }).${create.name}({ root: ${JSON.stringify(bed.root)}, log: silentLogger, openCounter: async (root) => {
                const counter = await openProjectCounter(root);
                return { ...counter, assign: async (dir, id) => {
                  writeFileSync(${JSON.stringify(seen)}, String(id));
                  if (${JSON.stringify(when)} === 'after') await counter.assign(dir, id);
                  process.kill(process.pid, 'SIGKILL');
                } };
              } });
              await snapshotter.prepare(newOp('prepare', { timeoutMs: 10000 }), 'cut', ${JSON.stringify(top)});`;
            const script = join(bed.dir, 'cut.ts');
            writeFileSync(script, code);
            // V8 itself ends one in a few that strip types in two threads at once, long before anything is done (nodejs/node issue 64500).
            for (let tries = 0; !existsSync(seen) && tries < 5; tries++) await run(op(), { argv: [process.execPath, script] });
            const id = Number(readFileSync(seen, 'utf8'));
            expect((await counter.usage(id)).inodes).to.equal(when === 'after' ? 1 : 0);
            expect(readdirSync(join(bed.root, 'tmp')).length).to.equal(1);
            snapshotter = await open(bed.root);
            expect(await snapshotter.keys()).to.deep.equal([]);
            await eventually('nothing has the id', async () => (await counter.usage(id)).inodes === 0);
            const rootfs = await writable('cut');
            writeFileSync(join(rootfs, 'a'), Buffer.alloc(MIB, 1));
            expect((await snapshotter.usage('cut')).sizeBytes).to.be.within(MIB, 1.5 * MIB);
            expect(await counter.idOf(active('cut'))).to.equal(id);
          });
      });
    }

    it('of somebody else are left to them: a root that is in a project is walked', async () => {
      using stack = new DisposableStack();
      const root = join(disk.dir, 'theirs');
      mkdirSync(root);
      stack.defer(() => rmSync(root, { recursive: true }));
      await (await openProjectCounter(disk.dir)).assign(root, 1_048_577);
      expect((await failure(openProjectCounter(root))).message).to.equal(`${root} belongs to project 1048577`);
      const snapshotter = await createOverlaySnapshotter({ root, log: silentLogger });
      expect(snapshotter.usageMethod).to.deep.equal({ by: 'walk', why: `${root} belongs to project 1048577` });
      await snapshotter.prepare(op(), 'k', undefined);
      expect((await snapshotter.usage('k')).inodes).to.equal(1);
      await snapshotter.remove(op(), 'k');
      await eventually('it is deleted', () => !existsSync(join(root, 'active/k')) && readdirSync(join(root, 'trash')).length === 0);
      expect(statSync(root).isDirectory()).to.equal(true);
    });
  });

describe('a filesystem that counts no projects', () => {
  let disk: QuotaDisk;
  before(async () => {
    disk = QuotaDisk.make('ext4', { counts: false });
    await startReactor();
  });
  after(async () => {
    await stopReactor();
    disk[Symbol.dispose]();
  });

  it('is walked, and that is told', async () => {
    const root = join(disk.dir, 'root');
    mkdirSync(root);
    expect((await failure(openProjectCounter(root))).kind).to.equal('failedPrecondition');
    const snapshotter = await createOverlaySnapshotter({ root, log: silentLogger });
    expect(snapshotter.usageMethod).to.deep.equal({
      by: 'walk',
      why: 'the filesystem has no project quotas that are on (quotactl: ESRCH)',
    });
    await snapshotter.prepare(op(), 'k', undefined);
    const upper = snapshotter.upperDir('k') ?? '';
    writeFileSync(join(upper, 'a'), Buffer.alloc(MIB, 1));
    expect(await snapshotter.usage('k')).to.deep.equal(await onDisk(upper));
    // Until the deletion is over.
    await snapshotter.remove(op(), 'k');
    for (let tries = 0; readdirSync(join(root, 'trash')).length > 0 && tries < 200; tries++) await sleep(20);
  });
});

describe('containers on a filesystem that counts projects', function () {
  this.timeout(120_000);
  const why = QuotaDisk.missing('ext4');
  if (why !== undefined) return void it.skip(`not here: ${why}`);
  let dir: string;
  let disk: QuotaDisk;
  let bed: Bed;
  before(async () => {
    disk = QuotaDisk.make('ext4');
    dir = mkdtempSync(join(tmpdir(), 'gantry-quota-bed-'));
    mkdirSync(join(dir, 'root'));
    execFileSync('mount', ['--bind', disk.dir, join(dir, 'root')]);
    bed = await Bed.make({ subnet: 40, dir });
  });
  after(async () => {
    await bed.gantry.stop();
    const { stdout } = spawnSync('findmnt', ['-rno', 'TARGET'], { encoding: 'utf8' });
    for (const target of stdout
      .split('\n')
      .filter((each) => each.startsWith(dir))
      .reverse())
      execFileSync('umount', [target]);
    await bed.end();
    disk[Symbol.dispose]();
    rmSync(dir, { recursive: true, force: true });
  });

  it('the verbose status tells how their layers are measured', async () => {
    const { info } = await bed.cri.runtime('status', { verbose: true });
    const { snapshotter } = JSON.parse(String(info['config'])) as { snapshotter: { usage: object } };
    expect(snapshotter.usage).to.deep.equal({ by: 'project quota' });
  });

  it('what one writes and truncates shows in its next stats', async () => {
    const config = bed.podConfig('writes', { linux: { securityContext: { namespaceOptions: { pid: 'CONTAINER' } } } });
    const pod = await bed.runPod(config);
    const script = [
      'while ! [ -e /write ]; do sleep 0.1; done; dd if=/dev/zero of=/big bs=1M count=50 && : > /written',
      'while ! [ -e /cut ]; do sleep 0.1; done; : > /big; : > /is-cut; sleep 1000',
    ].join('; ');
    const containerId = await bed.runContainer(pod, config, bed.containerConfig('c', script));
    const used = async (): Promise<number> => {
      const { stats } = await bed.cri.runtime('containerStats', { containerId });
      return Number(stats?.writableLayer?.usedBytes?.value);
    };
    const inside = (command: string) => bed.cri.runtime('execSync', { containerId, cmd: ['sh', '-c', command], timeout: 10 });
    const before = await used();
    await inside(': > /write; while ! [ -e /written ]; do sleep 0.1; done');
    expect(await used()).to.be.within(before + 50 * MIB, before + 51 * MIB);
    await inside(': > /cut; while ! [ -e /is-cut ]; do sleep 0.1; done');
    expect(await used()).to.be.within(before, before + MIB);
    // The same after a restart of the daemon.
    await bed.gantry.stop();
    await bed.gantry.start();
    await inside('dd if=/dev/zero of=/again bs=1M count=3');
    expect(await used()).to.be.within(before + 3 * MIB, before + 4 * MIB);
    await bed.cri.runtime('stopPodSandbox', { podSandboxId: pod });
    await bed.cri.runtime('removePodSandbox', { podSandboxId: pod });
  });
});
