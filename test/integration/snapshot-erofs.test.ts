import { createHash } from 'node:crypto';
import {
  closeSync,
  createWriteStream,
  lstatSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  readSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { createGzip } from 'node:zlib';
import { expect } from 'chai';
import koffi from 'koffi';
import { digestOf } from '../../src/base/digest.ts';
import { silentLogger } from '../../src/base/log.ts';
import { mountsUnder } from '../../src/os/mount.ts';
import { startReactor, stopReactor } from '../../src/os/reactor.ts';
import { run } from '../../src/os/spawn.ts';
import { createErofsSnapshotter } from '../../src/snapshot/erofs/erofs.ts';
import { SUPER_OFFSET } from '../../src/snapshot/erofs/format.ts';
import { writeIndex } from '../../src/snapshot/erofs/index-writer.ts';
import { LayerIndexer } from '../../src/snapshot/erofs/layer-indexer.ts';
import type { Backing } from '../../src/snapshot/erofs/mounting.ts';
import { detachIndex, mountIndex } from '../../src/snapshot/erofs/mounting.ts';
import { probeErofs } from '../../src/snapshot/erofs/probe.ts';
import type { LayerSource, MountSpec, Snapshotter } from '../../src/snapshot/snapshotter.ts';
import { encodeHeader, paddingOf } from '../../src/snapshot/tar/header.ts';
import { TarReader } from '../../src/snapshot/tar/reader.ts';
import { op, SnapshotBed, snapshotterSuite } from '../conformance/snapshotter.ts';
import { NASTY_TARS } from '../lib/nasty-tars.ts';
import { neededErofsFsck } from '../lib/programs.ts';
import { size } from '../lib/size.ts';

const open = (root: string): Promise<Snapshotter> => createErofsSnapshotter({ root, log: silentLogger });
const BACKINGS: readonly Backing[] = (['file', 'loop'] as const).flatMap((kind) => [true, false].map((direct) => ({ kind, direct })));
/** Younger than what any of the tars says but one, which is far ahead and of a file. */
const BEGAN_NS = BigInt(Date.now() - 3_600_000) * 1_000_000n;

const HEADER = { type: '0', mode: 0o644, uid: 0, gid: 0, mtime: '1', linkName: '', devMajor: 0, devMinor: 0, xattrs: new Map() } as const;

const residentMib = (): number => Number(/^VmHWM:\s+(\d+) kB/m.exec(readFileSync('/proc/self/status', 'utf8'))?.[1]) / 1024;

/** A layer's blob, gzip, written as the pieces of its tar come. */
async function blobOf(blobPath: string, pieces: () => Iterable<Buffer>): Promise<LayerSource> {
  const hash = createHash('sha256');
  const plain = function* (): Generator<Buffer> {
    for (const piece of pieces()) {
      hash.update(piece);
      yield piece;
    }
  };
  await pipeline(Readable.from(plain()), createGzip({ level: 1 }), createWriteStream(blobPath));
  return { diffId: `sha256:${hash.digest('hex')}`, blobPath, mediaType: 'application/vnd.oci.image.layer.v1.tar+gzip' };
}

const libc = koffi.load('libc.so.6');
const llistxattr = libc.func('long llistxattr(void *path, void *list, size_t size)');
const lgetxattr = libc.func('long lgetxattr(void *path, void *name, void *value, size_t size)');

describe('erofs snapshotter', () => {
  before(async function () {
    if (process.getuid?.() !== 0) this.skip();
    await startReactor();
  });
  after(() => stopReactor());
  snapshotterSuite('erofs', { open });

  // As on Linux before 6.12.
  snapshotterSuite('erofs by loop devices', {
    open: (root) => createErofsSnapshotter({ root, log: silentLogger, backings: BACKINGS.filter(({ kind }) => kind === 'loop') }),
  });

  describe('large layers', function () {
    this.timeout(3_600_000);
    const ENTRIES = size('LAYER_ENTRIES', 50_000, 1_000_000);
    const GIB = size('LAYER_GIB', 0.5, 20);
    const SLACK_MIB = 128;
    let bed: SnapshotBed;
    // A real disk: it is as large as they are.
    beforeEach(() => (bed = new SnapshotBed('/var/tmp')));
    afterEach(() => bed.dispose());

    /** By how many MiB this process has grown at most. */
    async function growthMib(work: () => Promise<unknown>): Promise<number> {
      writeFileSync('/proc/self/clear_refs', '5');
      const before = residentMib();
      await work();
      return residentMib() - before;
    }

    it(`of ${ENTRIES} entries: every file is there, for about 200 bytes of memory each`, async () => {
      const source = await blobOf(join(bed.dir, 'many'), function* () {
        const content = Buffer.alloc(512).fill('x', 0, 1);
        for (let n = 0; n < ENTRIES; n++) {
          const header = encodeHeader({ ...HEADER, name: `d${n % 1000}/e${n % 7}/file-${n}`, sizeBytes: 1, uid: n });
          yield Buffer.concat([header, content]);
        }
      });
      const snapshotter = await open(bed.root);
      const grown = await growthMib(() => snapshotter.commitLayer(op(600_000), source, { parent: undefined, chainId: source.diffId }));
      const rootfs = bed.mounted(await snapshotter.prepare(op(), 'k', source.diffId));
      const { stdout } = await run(op(), { argv: ['find', rootfs, '-type', 'f', '-printf', '%U\\n'], maxOutputBytes: 1 << 30 });
      expect(
        stdout
          .toString()
          .trimEnd()
          .split('\n')
          .map(Number)
          .sort((a, b) => a - b),
      ).to.deep.equal(Array.from({ length: ENTRIES }, (_, n) => n));
      process.stdout.write(`      ${ENTRIES} entries: ${grown.toFixed(0)} MiB of memory\n`);
      expect(grown).to.be.lessThan(SLACK_MIB + (ENTRIES * 200) / 2 ** 20);
    });

    it(`of ${GIB} GiB: read back whole, for no more memory than a small one`, async () => {
      const bytes = Math.round(GIB * 2 ** 30);
      // What says where it stands would be damaged by any mistake in counting, beyond 32 bits too.
      const marks = [0, Math.floor(bytes / 2), bytes - 16];
      const source = await blobOf(join(bed.dir, 'huge'), function* () {
        yield encodeHeader({ ...HEADER, name: 'huge', sizeBytes: bytes });
        const piece = Buffer.alloc(1 << 20);
        for (let at = 0; at < bytes; at += piece.length) {
          const marked = marks.filter((mark) => mark >= at && mark < at + piece.length);
          const chunk = marked.length === 0 ? piece : Buffer.from(piece);
          for (const mark of marked) chunk.write(String(mark).padStart(16, '.'), mark - at);
          yield chunk.subarray(0, Math.min(piece.length, bytes - at));
        }
        yield Buffer.alloc(paddingOf(bytes));
      });
      const snapshotter = await open(bed.root);
      const grown = await growthMib(() => snapshotter.commitLayer(op(1_800_000), source, { parent: undefined, chainId: source.diffId }));
      const rootfs = bed.mounted(await snapshotter.prepare(op(), 'k', source.diffId));
      expect(statSync(join(rootfs, 'huge')).size).to.equal(bytes);
      const fd = openSync(join(rootfs, 'huge'), 'r');
      for (const mark of marks) {
        const found = Buffer.alloc(16);
        readSync(fd, found, 0, 16, mark);
        expect(found.toString()).to.equal(String(mark).padStart(16, '.'));
      }
      closeSync(fd);
      process.stdout.write(`      ${GIB} GiB: ${grown.toFixed(0)} MiB of memory\n`);
      expect(grown).to.be.lessThan(SLACK_MIB);
    });
  });

  describe('a layer that somebody unmounted', () => {
    let bed: SnapshotBed;
    beforeEach(() => (bed = new SnapshotBed('/var/tmp')));
    afterEach(() => bed.dispose());

    for (const how of ['plain', 'idmapped'] as const) {
      it(`is missed before it is mounted (${how}), and back when it is asked for again`, async function () {
        const snapshotter = await open(bed.root);
        if (how === 'idmapped' && !snapshotter.idmaps) this.skip();
        const idmap = how === 'idmapped' ? await bed.idmap(100_000, 100_000) : undefined;
        const base = await bed.commit(snapshotter, undefined, [{ name: 'a', content: 'a' }]);
        const top = await bed.commit(snapshotter, base, [{ name: 'b', content: 'b' }]);
        const prepare = (): Promise<readonly MountSpec[]> => snapshotter.prepare(op(), 'k', top, idmap);
        const specs = await prepare();
        detachIndex(join(bed.root, 'layers/1/fs'));
        expect(() => bed.mounted(specs)).to.throw(`${bed.root}/layers/1/fs is not mounted`);
        expect(mountsUnder(bed.dir).filter((path) => !path.startsWith(bed.root))).to.deep.equal(idmap === undefined ? [] : [idmap.userns]);
        expect(readdirSync(bed.mounted(await prepare())).sort()).to.deep.equal(['a', 'b']);
      });
    }
  });

  describe('the kernel sees in an index what tar extracts', function () {
    this.timeout(60_000);
    let bed: SnapshotBed;
    let backings: readonly Backing[];
    // Files on a tmpfs, as /tmp often is, can't back a mount.
    beforeEach(() => (bed = new SnapshotBed('/var/tmp')));
    afterEach(() => bed.dispose());
    before(async () => {
      const probed = new SnapshotBed('/var/tmp');
      backings = BACKINGS.filter((backing) => canMount(probed.dir, backing));
      await probed.dispose();
      expect(backings, 'ways to mount').to.not.deep.equal([]);
    });

    /** In the bed: `tar`, its `index`, and what of it is `extracted`. */
    const indexed = async (tar: Buffer): Promise<{ at: (name: string) => string; expected: Tree }> => {
      const at = (name: string): string => join(bed.dir, name);
      mkdirSync(at('extracted'));
      await extract(tar, at('extracted'));
      writeFileSync(at('tar'), Buffer.concat([tar, Buffer.alloc(-tar.length & 4095)]));
      index(tar, at('index'));
      return { at, expected: describeTree(at('extracted')) };
    };

    for (const [what, tar] of NASTY_TARS) {
      it(what, async () => {
        const { at, expected } = await indexed(tar);
        mkdirSync(at('mounted'));
        for (const backing of backings) {
          mountIndex({ index: at('index'), tar: at('tar'), target: at('mounted') }, backing);
          try {
            expect(describeTree(at('mounted')), JSON.stringify(backing)).to.deep.equal(expected);
          } finally {
            detachIndex(at('mounted'));
          }
        }
      });
    }

    describe('and so does fsck.erofs', () => {
      let fsck: string;
      before(function () {
        fsck = neededErofsFsck(this);
      });
      for (const [what, tar] of NASTY_TARS) {
        it(what, async () => {
          const { expected } = await indexed(tar);
          expect(await readByFsck(fsck, bed.dir, expected)).to.deep.equal(expected);
        });
      }
    });
  });
});

function canMount(dir: string, backing: Backing): boolean {
  try {
    probeErofs(dir, [backing]);
    return true;
  } catch {
    return false;
  }
}

/** By GNU tar, which wants padding and an end. Not by child_process: the reactor collects what libuv would wait for without end. */
async function extract(tar: Buffer, into: string): Promise<void> {
  const whole = Buffer.concat([tar, Buffer.alloc((-tar.length & 511) + 1024)]);
  const argv = ['-x', '-p', '--numeric-owner', '--xattrs', '--xattrs-include=*', '--warning=none', '-C', into];
  const env = { PATH: process.env['PATH'] ?? '', LC_ALL: 'C' };
  const { exitCode, stderr } = await run(op(), { argv: ['tar', ...argv], input: whole, env });
  const complaints = stderr
    .toString()
    .split('\n')
    .filter((line) => line !== '' && !line.startsWith("tar: Removing leading `/'"));
  expect([exitCode, complaints]).to.deep.equal([0, []]);
}

/** As the snapshotter does it, without a thread. */
function index(tar: Buffer, to: string): void {
  const indexer = new LayerIndexer({ isBottom: true });
  const reader = new TarReader(indexer);
  reader.push(tar);
  reader.end();
  const fd = openSync(to, 'w');
  try {
    writeIndex(fd, indexer.end(), { digest: '0'.repeat(64), sizeBytes: tar.length });
  } finally {
    closeSync(fd);
  }
}

/** What fsck.erofs makes of the index and the tar in `dir`, as `expected` tells it. */
async function readByFsck(fsck: string, dir: string, expected: Tree): Promise<Tree> {
  const index = readFileSync(join(dir, 'index'));
  // erofs-utils 1.8 crashes over the checksum of blocks that are smaller than 1024 bytes. The kernel verified it.
  index.writeUInt32LE(index.readUInt32LE(SUPER_OFFSET + 8) & ~1, SUPER_OFFSET + 8);
  writeFileSync(join(dir, 'unsummed'), index);
  // It takes an empty value for an error.
  const all = Object.values(expected).flatMap(({ attributes }) => Object.values(attributes as Record<string, string>));
  const options = all.includes('') ? ['--no-xattrs'] : ['--xattrs'];
  const argv = [
    fsck,
    '-d1',
    ...options,
    '--preserve',
    `--extract=${join(dir, 'read')}`,
    `--device=${join(dir, 'tar')}`,
    join(dir, 'unsummed'),
  ];
  const { exitCode, stdout, stderr } = await run(op(), { argv, env: {} });
  expect([exitCode, stdout.toString(), stderr.toString()]).to.deep.equal([0, '', '']);
  const found = describeTree(join(dir, 'read'));
  if (!all.includes('')) return found;
  return Object.fromEntries(Object.entries(found).map(([path, each]) => [path, { ...each, attributes: expected[path]?.['attributes'] }]));
}

type Tree = Record<string, Record<string, unknown>>;

/** All that a tar says of a tree, by path; names are byte strings. */
function describeTree(root: string): Tree {
  const found: Tree = {};
  const first = new Map<bigint, string>();
  const visit = (dir: Buffer): void => {
    for (const name of readdirSync(dir, { encoding: 'buffer' }).sort(Buffer.compare)) {
      const path = Buffer.concat([dir, Buffer.from('/'), name]);
      const stat = lstatSync(path, { bigint: true });
      const shown = path.toString('latin1').slice(root.length + 1);
      const isDir = stat.isDirectory();
      if (!first.has(stat.ino)) first.set(stat.ino, shown);
      found[shown] = {
        mode: stat.mode.toString(8),
        owner: `${stat.uid}:${stat.gid}`,
        // A directory that no entry described has the time of its making.
        mtimeNs: isDir && stat.mtimeNs > BEGAN_NS ? 0n : stat.mtimeNs,
        device: stat.rdev,
        attributes: xattrsOf(path),
        ...(isDir ? {} : { links: stat.nlink, same: first.get(stat.ino), sizeBytes: stat.size }),
        ...(stat.isFile() ? { content: digestOf(readFileSync(path)) } : {}),
        ...(stat.isSymbolicLink() ? { target: readlinkSync(path, 'latin1') } : {}),
      };
      if (isDir) visit(path);
    }
  };
  visit(Buffer.from(root));
  return found;
}

/** Without what the host's security modules add to every file. */
function xattrsOf(path: Buffer): Record<string, string> {
  const list = Buffer.alloc(65_536);
  const value = Buffer.alloc(65_536);
  const cPath = Buffer.concat([path, Buffer.of(0)]);
  const listed = Number(llistxattr(cPath, list, list.length));
  if (listed < 0) throw new Error(`llistxattr ${path.toString('latin1')}: errno ${koffi.errno()}`);
  const names = list.toString('latin1', 0, listed).split('\0');
  const found: Record<string, string> = {};
  for (const name of names.filter((each) => each !== '' && each !== 'security.selinux').sort()) {
    const length = Number(lgetxattr(cPath, Buffer.from(`${name}\0`, 'latin1'), value, value.length));
    if (length < 0) throw new Error(`lgetxattr ${path.toString('latin1')} ${name}: errno ${koffi.errno()}`);
    found[name] = value.toString('hex', 0, length);
  }
  return found;
}
