import { spawn } from 'node:child_process';
import { existsSync, lstatSync, mkdirSync, readdirSync, readFileSync, statfsSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { expect } from 'chai';
import { chainIdOf } from '../../src/base/digest.ts';
import { silentLogger } from '../../src/base/log.ts';
import { newOp } from '../../src/base/op.ts';
import { mount, umount } from '../../src/os/mount.ts';
import { startReactor, stopReactor } from '../../src/os/reactor.ts';
import { run } from '../../src/os/spawn.ts';
import { createOverlaySnapshotter } from '../../src/snapshot/overlay.ts';
import type { Snapshotter } from '../../src/snapshot/snapshotter.ts';
import { findTools } from '../../src/snapshot/tools.ts';
import { failure, op, SnapshotBed, snapshotterSuite, tarOf } from '../conformance/snapshotter.ts';

const open = (root: string): Promise<Snapshotter> => createOverlaySnapshotter({ root, log: silentLogger });

/** Until deletions in the background are done. */
async function emptied(dir: string): Promise<void> {
  for (let waitedMs = 0; readdirSync(dir).length > 0 && waitedMs < 20_000; waitedMs += 20) await sleep(20);
  expect(readdirSync(dir)).to.deep.equal([]);
}

describe('overlay snapshotter', () => {
  before(async function () {
    if (process.getuid?.() !== 0) this.skip();
    await startReactor();
  });
  after(() => stopReactor());
  snapshotterSuite('overlay', { open });

  // As on a fresh Debian.
  const plain = { ...findTools(), bsdtar: undefined };
  snapshotterSuite('overlay by GNU tar', { open: (root) => createOverlaySnapshotter({ root, log: silentLogger, tools: plain }) });

  describe('its directories', function () {
    this.timeout(120_000);
    let bed: SnapshotBed;
    let snapshotter: Snapshotter;
    beforeEach(async () => {
      bed = new SnapshotBed();
      snapshotter = await open(bed.root);
    });
    afterEach(() => bed.dispose());
    const names = (dir: string): string[] => readdirSync(join(bed.root, dir)).sort();

    it('are clean after a commit that failed, was cancelled, or could not begin', async () => {
      const bytes = await tarOf([{ name: 'a', content: Buffer.alloc(64 << 20) }]);
      const source = bed.blob(bytes, 'none');
      const chain = { parent: undefined, chainId: source.diffId };
      for (const timeoutMs of [1, 20, 60]) {
        expect((await failure(snapshotter.commitLayer(newOp('pull', { timeoutMs }), source, chain))).kind).to.equal('deadlineExceeded');
      }
      expect((await failure(snapshotter.commitLayer(op(), { ...source, mediaType: 'text/plain' }, chain))).kind).to.equal(
        'invalidArgument',
      );
      expect((await failure(snapshotter.commitLayer(op(), { ...source, blobPath: '/nonexistent' }, chain))).kind).to.equal('internal');
      expect(names('tmp')).to.deep.equal([]);
      expect(names('layers')).to.deep.equal([]);
      await emptied(join(bed.root, 'trash'));
      await snapshotter.commitLayer(op(), source, chain);
    });

    it('leave no descriptor open, whether a commit succeeds or fails', async () => {
      const none = await createOverlaySnapshotter({ root: bed.root, log: silentLogger, tools: { ...plain, tar: undefined } });
      const commitAll = async (n: number): Promise<void> => {
        const source = bed.blob(await tarOf([{ name: `f${n}` }]));
        const chain = { parent: undefined, chainId: source.diffId };
        expect((await failure(none.commitLayer(op(), source, chain))).kind).to.equal('failedPrecondition');
        expect((await failure(snapshotter.commitLayer(newOp('pull', { timeoutMs: 1 }), source, chain))).kind).to.equal('deadlineExceeded');
        await failure(bed.commit(snapshotter, undefined, [{ name: '../x' }]));
        await snapshotter.commitLayer(op(), source, chain);
      };
      await commitAll(0);
      await sleep(100);
      const before = readdirSync('/proc/self/fd').length;
      for (let n = 1; n < 10; n++) await commitAll(n);
      await sleep(100);
      expect(readdirSync('/proc/self/fd').length).to.be.at.most(before + 2);
    });

    it('hold a whole layer or none after SIGKILL at any moment (R9)', async () => {
      const source = bed.blob(await tarOf(Array.from({ length: 300 }, (_, n) => ({ name: `f${n}`, content: Buffer.alloc(100_000, n) }))));
      const script = `
        import { createOverlaySnapshotter } from ${JSON.stringify(new URL('../../src/snapshot/overlay.ts', import.meta.url).href)};
        import { newOp } from ${JSON.stringify(new URL('../../src/base/op.ts', import.meta.url).href)};
        import { silentLogger } from ${JSON.stringify(new URL('../../src/base/log.ts', import.meta.url).href)};
        const snapshotter = await createOverlaySnapshotter({ root: ${JSON.stringify(bed.root)}, log: silentLogger });
        process.stdout.write('begun');
        await snapshotter.commitLayer(newOp('pull'), ${JSON.stringify(source)}, { parent: undefined, chainId: ${JSON.stringify(source.diffId)} });
        process.exit(0);`;
      writeFileSync(join(bed.dir, 'pull.mjs'), script);
      for (const delayMs of [0, 20, 50, 90, 140, 200, 300, 400]) {
        const child = spawn(process.execPath, [join(bed.dir, 'pull.mjs')], { stdio: ['ignore', 'pipe', 'inherit'] });
        const ended = new Promise((resolve) => child.once('exit', resolve));
        await new Promise((resolve) => child.stdout.once('data', resolve));
        await sleep(delayMs);
        child.kill('SIGKILL');
        await ended;
        const after = await open(bed.root);
        await emptied(join(bed.root, 'trash'));
        expect(names('tmp')).to.deep.equal([]);
        await after.commitLayer(op(), source, { parent: undefined, chainId: source.diffId });
        const rootfs = bed.mounted(await after.prepare(op(), 'k', source.diffId));
        for (const n of [0, 150, 299]) expect(readFileSync(join(rootfs, `f${n}`)).equals(Buffer.alloc(100_000, n))).to.equal(true);
        await umount(rootfs);
        await after.remove(op(), 'k');
        await after.removeLayer(op(), source.diffId);
        await emptied(join(bed.root, 'trash'));
      }
    });

    it('lose nothing but what can not be read (R6)', async () => {
      const base = await bed.commit(snapshotter, undefined, [{ name: 'a' }]);
      const top = await bed.commit(snapshotter, base, [{ name: 'b' }]);
      const other = await bed.commit(snapshotter, undefined, [{ name: 'c' }]);
      await snapshotter.prepare(op(), 'whole', other);
      await snapshotter.prepare(op(), 'broken', other);
      truncateSync(join(bed.root, 'active', 'broken', 'snapshot.json'), 10);
      truncateSync(join(bed.root, 'layers', '1', 'layer.json'), 0);
      mkdirSync(join(bed.root, 'layers', 'rubbish'));
      mkdirSync(join(bed.root, 'tmp', 'half'));
      const reopened = await open(bed.root);
      expect((await reopened.layers()).sort()).to.deep.equal([top, other].sort());
      // It stands on nothing: a pull has to bring its base back.
      expect(await reopened.hasLayer(top)).to.equal(false);
      expect((await reopened.keys()).sort()).to.deep.equal(['broken', 'whole']);
      expect((await failure(reopened.prepare(op(), 'broken', other))).kind).to.equal('failedPrecondition');
      await reopened.remove(op(), 'broken');
      expect(await reopened.prepare(op(), 'whole', other)).to.have.length(1);
      expect(await bed.commit(reopened, undefined, [{ name: 'a' }])).to.equal(base);
      expect(await reopened.hasLayer(top)).to.equal(true);
      expect(readdirSync(bed.mounted(await reopened.prepare(op(), 'again', top))).sort()).to.deep.equal(['a', 'b']);
      expect(names('tmp')).to.deep.equal([]);
    });

    it('give up a tree of 2,000 levels (R37)', async () => {
      const rootfs = bed.mounted(await snapshotter.prepare(op(), 'k', undefined));
      const script = "process.chdir(process.argv[1]); for (let n = 0; n < 2000; n++) { fs.mkdirSync('ddddd'); process.chdir('ddddd'); }";
      const { exitCode, stderr } = await run(op(), { argv: [process.execPath, '-e', script, rootfs] });
      expect(exitCode, stderr.toString()).to.equal(0);
      expect((await snapshotter.usage('k')).inodes).to.equal(2001);
      await umount(rootfs);
      await snapshotter.remove(op(), 'k');
      expect(names('active')).to.deep.equal([]);
      await emptied(join(bed.root, 'trash'));
    });

    it('can be removed on a full disk, and opened (R11)', async () => {
      const disk = join(bed.dir, 'disk');
      mkdirSync(disk);
      mount({ type: 'tmpfs', source: 'tmpfs', target: disk, data: 'size=4m,nr_inodes=400' });
      const root = join(disk, 'root');
      const full = await open(root);
      const layer = await bed.commit(full, undefined, [{ name: 'a', content: Buffer.alloc(1 << 20) }]);
      await full.prepare(op(), 'k', layer);
      const big = bed.blob(await tarOf([{ name: 'big', content: Buffer.alloc(8 << 20) }]));
      expect((await failure(full.commitLayer(op(), big, { parent: undefined, chainId: big.diffId }))).kind).to.equal('resourceExhausted');
      await emptied(join(root, 'trash'));
      expect(() => writeFileSync(join(disk, 'filler'), Buffer.alloc(8 << 20))).to.throw('ENOSPC');
      expect(() => {
        for (let n = 0; n < 500; n++) mkdirSync(join(disk, `d${n}`));
      }).to.throw('ENOSPC');
      expect(statfsSync(disk).bavail).to.equal(0);
      await full.remove(op(), 'k');
      await full.removeLayer(op(), layer);
      expect(await full.layers()).to.deep.equal([]);
      const reopened = await open(root);
      expect(await reopened.keys()).to.deep.equal([]);
      await umount(disk);
    });

    it('keep a layer that somebody begins to stand on while it is being removed', async () => {
      for (let n = 0; n < 20; n++) {
        const layer = await bed.commit(snapshotter, undefined, [{ name: `f${n}` }]);
        const [prepared, removed] = await Promise.all([
          failure(snapshotter.prepare(op(), `k${n}`, layer)),
          failure(n % 2 === 0 ? snapshotter.removeLayer(op(), layer) : sleep(n / 4).then(() => snapshotter.removeLayer(op(), layer))),
        ]);
        expect([prepared.kind, removed.kind]).to.deep.be.oneOf([
          ['none', 'failedPrecondition'],
          ['notFound', 'none'],
        ]);
      }
    });

    it('are private, and ask for a root that mount options can name', async () => {
      for (const dir of ['', 'layers', 'active', 'tmp', 'trash']) expect(lstatSync(join(bed.root, dir)).mode & 0o77).to.equal(0);
      expect((await failure(open(`${bed.dir}/a,b`))).kind).to.equal('invalidArgument');
      expect(existsSync(`${bed.dir}/a,b`)).to.equal(false);
    });

    it('mount again after a volatile overlay was cut off', async () => {
      const layer = await bed.commit(snapshotter, undefined, [{ name: 'a' }]);
      const specs = await snapshotter.prepare(op(), 'k', layer);
      const first = bed.mounted(specs);
      await umount(first);
      expect(readdirSync(bed.mounted(await snapshotter.prepare(op(), 'k', layer)))).to.deep.equal(['a']);
    });

    it('unpack as the chain says, whatever order the layers come in', async () => {
      const sources = await Promise.all(['x', 'y'].map(async (name) => bed.blob(await tarOf([{ name }]))));
      const [first, second] = sources as [(typeof sources)[0], (typeof sources)[0]];
      const chain = { parent: first.diffId, chainId: chainIdOf(first.diffId, second.diffId) };
      const wrong = { parent: undefined, chainId: chain.chainId };
      expect((await failure(snapshotter.commitLayer(op(), second, wrong))).message).to.include('assertion failed');
    });
  });
});
