import { createHash, randomBytes } from 'node:crypto';
import type { Stats } from 'node:fs';
import {
  chmodSync,
  existsSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  renameSync,
  rmSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { gzipSync, zstdCompressSync } from 'node:zlib';
import { setTimeout as sleep } from 'node:timers/promises';
import { MessageChannel } from 'node:worker_threads';
import { expect } from 'chai';
import type { Header } from 'tar-stream';
import { pack } from 'tar-stream';
import type { Digest } from '../../src/base/digest.ts';
import { chainIdOf } from '../../src/base/digest.ts';
import { ClassifiedError, kindOf } from '../../src/base/errors.ts';
import type { Op } from '../../src/base/op.ts';
import { newOp } from '../../src/base/op.ts';
import { mountSnapshot } from '../../src/container/rootfs.ts';
import { mount, mountsUnder, umount } from '../../src/os/mount.ts';
import type { DiskUsage } from '../../src/os/disk-usage.ts';
import { createNamespaces } from '../../src/os/namespaces.ts';
import type { IdMapping } from '../../src/os/user-namespace.ts';
import { hostIdOf } from '../../src/os/user-namespace.ts';
import { run } from '../../src/os/spawn.ts';
import { getXattr } from '../../src/os/syscalls.ts';
import type { GrowingBlob, LayerSource, MountSpec, RootfsIdmap, Snapshotter } from '../../src/snapshot/snapshotter.ts';

export const op = (timeoutMs = 60_000): Op => newOp('test', { timeoutMs });

export type Entry = Partial<Header> & { readonly name: string; readonly content?: string | Buffer };

const TIME = new Date(1_000_000_000_000);

/** The bytes of a tar. */
export async function tarOf(entries: readonly Entry[]): Promise<Buffer> {
  const archive = pack();
  for (const { content, ...headers } of entries) archive.entry({ mtime: TIME, ...headers } as Header, content ?? '');
  archive.finalize();
  const chunks: Buffer[] = [];
  for await (const chunk of archive) chunks.push(chunk as Buffer);
  return Buffer.concat(chunks);
}

const MEDIA = 'application/vnd.oci.image.layer.v1.tar';

export const diffIdOf = (tar: Buffer): Digest => `sha256:${createHash('sha256').update(tar).digest('hex')}`;

/** A directory of its own for one test: blobs, the snapshotter's root, mountpoints. Everything in it goes with `dispose`. */
export class SnapshotBed {
  readonly dir: string;
  readonly root: string;
  #blobs = 0;
  #mounts = 0;

  constructor(below = tmpdir()) {
    this.dir = mkdtempSync(join(below, 'gantry-test-snapshot-'));
    this.root = join(this.dir, 'root');
    chmodSync(this.dir, 0o755);
  }

  blob(tar: Buffer, compression: 'gzip' | 'zstd' | 'none' = 'gzip'): LayerSource {
    const blobPath = join(this.dir, `blob-${this.#blobs++}`);
    writeFileSync(blobPath, compression === 'gzip' ? gzipSync(tar) : compression === 'zstd' ? zstdCompressSync(tar) : tar);
    return { diffId: diffIdOf(tar), blobPath, mediaType: compression === 'none' ? MEDIA : `${MEDIA}+${compression}` };
  }

  coming(tar: Buffer, compression: 'gzip' | 'zstd' | 'none' = 'gzip'): Coming {
    return new Coming(this.blob(tar, compression));
  }

  async commit(snapshotter: Snapshotter, parent: Digest | undefined, entries: readonly Entry[]): Promise<Digest> {
    const source = this.blob(await tarOf(entries));
    const chainId = chainIdOf(parent, source.diffId);
    await snapshotter.commitLayer(op(), source, { parent, chainId });
    return chainId;
  }

  mounted(specs: readonly MountSpec[]): string {
    const target = join(this.dir, `mnt-${this.#mounts++}`);
    mkdirSync(target);
    mountSnapshot(specs, { target, layers: join(this.dir, 'layers-view') });
    return target;
  }

  /** Of a user namespace of its own: users from `uid` on, groups from `gid` on. */
  async idmap(uid: number, gid: number): Promise<RootfsIdmap> {
    const [uids, gids] = [uid, gid].map((hostId) => [{ containerId: 0, hostId, length: 65_536 }]) as [IdMapping[], IdMapping[]];
    const pins = join(this.dir, `ns-${this.#mounts++}`);
    await createNamespaces({ dir: pins, kinds: [], user: { uids, gids } });
    return { userns: join(pins, 'user'), uid: (id) => hostIdOf(uids, id), gid: (id) => hostIdOf(gids, id) };
  }

  /** What `du` says of the layers, below whatever is mounted there. */
  async layersOnDisk(): Promise<DiskUsage> {
    const target = join(this.dir, `du-${this.#mounts++}`);
    mkdirSync(target);
    mount({ type: 'bind', source: this.root, target, flags: ['bind'] });
    const dirs = ['layers', 'tars'].map((name) => join(target, name)).filter((dir) => existsSync(dir));
    const total = async (flag: string): Promise<number> => {
      const { stdout } = await run(op(), { argv: ['du', '-scx', flag, ...dirs] });
      return Number(/^(\d+)\s+total$/m.exec(stdout.toString())?.[1]);
    };
    try {
      return { sizeBytes: await total('-B1'), inodes: await total('--inodes') };
    } finally {
      await umount(target);
    }
  }

  async dispose(): Promise<void> {
    for (const target of mountsUnder(this.dir)) await umount(target);
    // A deletion in the background may still be at it.
    for (let tries = 0; existsSync(this.dir) && tries < 100; tries++) {
      try {
        rmSync(this.dir, { recursive: true, force: true });
      } catch {
        await sleep(20);
      }
    }
  }
}

/** A blob that is fetched as the test says. */
export class Coming {
  readonly source: LayerSource;
  readonly bytes: Buffer;
  isFollowed = false;
  readonly #path: string;
  readonly #blobPath: string;
  readonly #ports = new MessageChannel();
  readonly #done = Promise.withResolvers<void>();

  constructor(source: LayerSource) {
    this.#blobPath = source.blobPath;
    this.bytes = readFileSync(source.blobPath);
    this.#path = `${source.blobPath}.ingest`;
    renameSync(source.blobPath, this.#path);
    truncateSync(this.#path, 0);
    this.#done.promise.catch(() => undefined);
    const follow = (): GrowingBlob => {
      this.isFollowed = true;
      return { fd: openSync(this.#path, 'r'), port: this.#ports.port2, sizeBytes: this.bytes.length };
    };
    this.source = { ...source, fetch: { begun: Promise.resolve({ follow }), done: this.#done.promise } };
  }

  upTo(end: number, bytes = this.bytes): void {
    // Not cut off first: somebody reads it.
    writeFileSync(this.#path, bytes.subarray(0, end), { flag: 'r+' });
    this.#ports.port1.postMessage(end);
  }

  giveUp(): void {
    this.#ports.port1.close();
  }

  /** Another attempt has brought it. */
  arrive(): void {
    writeFileSync(this.#blobPath, this.bytes);
    this.end();
  }

  end(error?: Error): void {
    this.#ports.port1.close();
    if (error === undefined) this.#done.resolve();
    else this.#done.reject(error);
  }
}

export interface SnapshotterSuiteOptions {
  /** Called again on the same root for a "restarted daemon". */
  open(root: string): Promise<Snapshotter>;
  /** Where directories of tests are made. */
  below?(): string;
}

const dir = (name: string, more: Partial<Header> = {}): Entry => ({ name, type: 'directory', mode: 0o755, ...more });
const file = (name: string, content = name, more: Partial<Header> = {}): Entry => ({ name, type: 'file', mode: 0o644, content, ...more });

export const failure = async (promise: Promise<unknown>): Promise<{ kind: string; message: string }> =>
  promise.then(
    () => ({ kind: 'none', message: '' }),
    (error: unknown) => ({ kind: kindOf(error), message: (error as Error).message }),
  );

/** What every Snapshotter does, whatever it keeps layers in. Needs root. */
export function snapshotterSuite(name: string, { open, below }: SnapshotterSuiteOptions): void {
  describe(`snapshotter ${name}`, function () {
    this.timeout(60_000);
    let bed: SnapshotBed;
    let snapshotter: Snapshotter;
    beforeEach(async () => {
      bed = new SnapshotBed(below?.());
      snapshotter = await open(bed.root);
    });
    afterEach(() => bed.dispose());

    const writable = async (key: string, top: Digest | undefined): Promise<string> =>
      bed.mounted(await snapshotter.prepare(op(), key, top));

    describe('layers', () => {
      for (const compression of ['gzip', 'zstd', 'none'] as const) {
        it(`come from ${compression} blobs`, async () => {
          const source = bed.blob(await tarOf([file('a', 'x'.repeat(3_000_000))]), compression);
          await snapshotter.commitLayer(op(), source, { parent: undefined, chainId: source.diffId });
          expect(readFileSync(join(await writable('k', source.diffId), 'a'), 'utf8')).to.have.length(3_000_000);
        });
      }

      it('are committed once, and again without work', async () => {
        const source = bed.blob(await tarOf([file('a')]));
        const chain = { parent: undefined, chainId: source.diffId };
        await Promise.all([1, 2, 3].map(() => snapshotter.commitLayer(op(), source, chain)));
        rmSync(source.blobPath);
        await snapshotter.commitLayer(op(), source, chain);
        expect(await snapshotter.layers()).to.deep.equal([source.diffId]);
        expect(await snapshotter.hasLayer(source.diffId)).to.equal(true);
        expect(await snapshotter.layersUsage()).to.deep.equal(await bed.layersOnDisk());
      });

      it('of one image may be committed side by side', async () => {
        const sources = await Promise.all(
          [0, 1, 2, 3, 4].map(async (n) => bed.blob(await tarOf([file('same', String(n)), file(`f${n}`)]))),
        );
        let parent: Digest | undefined;
        const commits = sources.map((source) => {
          const chain = { parent, chainId: chainIdOf(parent, source.diffId) };
          parent = chain.chainId;
          return snapshotter.commitLayer(op(), source, chain);
        });
        await Promise.all(commits);
        const rootfs = await writable('k', parent);
        expect(readdirSync(rootfs).sort()).to.deep.equal(['f0', 'f1', 'f2', 'f3', 'f4', 'same']);
        expect(readFileSync(join(rootfs, 'same'), 'utf8')).to.equal('4');
      });

      it('need their parent', async () => {
        const source = bed.blob(await tarOf([file('a')]));
        const parent = diffIdOf(Buffer.from('absent'));
        const chain = { parent, chainId: chainIdOf(parent, source.diffId) };
        expect((await failure(snapshotter.commitLayer(op(), source, chain))).kind).to.equal('failedPrecondition');
        expect(await snapshotter.layers()).to.deep.equal([]);
      });

      it('with another content than promised leave nothing (R9)', async () => {
        const source = { ...bed.blob(await tarOf([file('a')])), diffId: diffIdOf(Buffer.from('other')) };
        const error = await failure(snapshotter.commitLayer(op(), source, { parent: undefined, chainId: source.diffId }));
        expect(error.kind).to.equal('dataLoss');
        expect(await snapshotter.layers()).to.deep.equal([]);
        expect(await (await open(bed.root)).hasLayer(source.diffId)).to.equal(false);
      });

      it('that are cut short or damaged leave nothing', async () => {
        const tar = await tarOf([file('a', 'x'.repeat(100_000))]);
        for (const bytes of [gzipSync(tar).subarray(0, 100), Buffer.from('not gzip at all')]) {
          const source = { ...bed.blob(tar), diffId: diffIdOf(tar) };
          writeFileSync(source.blobPath, bytes);
          const error = await failure(snapshotter.commitLayer(op(), source, { parent: undefined, chainId: source.diffId }));
          expect(error.kind, error.message).to.equal('dataLoss');
        }
        const short = bed.blob(tar.subarray(0, 50_000), 'none');
        expect((await failure(snapshotter.commitLayer(op(), short, { parent: undefined, chainId: short.diffId }))).kind).to.equal(
          'dataLoss',
        );
        expect(await snapshotter.layers()).to.deep.equal([]);
      });

      describe('whose blobs are still coming', () => {
        const chainOf = ({ diffId }: LayerSource) => ({ parent: undefined, chainId: diffId });

        for (const compression of ['gzip', 'zstd', 'none'] as const) {
          it(`${compression}: are read as they come, and there when the blob is`, async () => {
            const coming = bed.coming(await tarOf([file('a', randomBytes(2_000_000).toString('hex')), file('b')]), compression);
            const committed = snapshotter.commitLayer(op(), coming.source, chainOf(coming.source));
            const half = Math.floor(coming.bytes.length / 2);
            coming.upTo(half);
            await sleep(50);
            coming.upTo(coming.bytes.length);
            await sleep(200);
            expect(await snapshotter.layers(), 'nothing before it is verified').to.deep.equal([]);
            coming.end();
            await committed;
            expect(readdirSync(await writable('k', coming.source.diffId)).sort()).to.deep.equal(['a', 'b']);
          });
        }

        it('leave nothing when the blob turns out to be another, though its content was right', async () => {
          const coming = bed.coming(await tarOf([file('a')]));
          const committed = failure(snapshotter.commitLayer(op(), coming.source, chainOf(coming.source)));
          coming.upTo(coming.bytes.length);
          await sleep(200);
          coming.end(new ClassifiedError('dataLoss', 'not the blob'));
          expect((await committed).message).to.equal('not the blob');
          expect(await snapshotter.layers()).to.deep.equal([]);
          expect(readdirSync(join(snapshotter.root(), 'tmp'))).to.deep.equal([]);
        });

        it('are read again when they were given up, or damaged, and came anew', async () => {
          for (const damage of [(at: Coming) => at.giveUp(), (at: Coming) => at.upTo(at.bytes.length, randomBytes(at.bytes.length))]) {
            const coming = bed.coming(await tarOf([file('a', randomBytes(1_000_000).toString('hex'))]));
            const committed = snapshotter.commitLayer(op(), coming.source, chainOf(coming.source));
            coming.upTo(100_000);
            await sleep(50);
            damage(coming);
            await sleep(100);
            coming.arrive();
            await committed;
            expect(await snapshotter.hasLayer(coming.source.diffId)).to.equal(true);
          }
        });

        it('do not keep who is over', async () => {
          const coming = bed.coming(await tarOf([file('a', randomBytes(1_000_000).toString('hex'))]));
          const short = newOp('pull', { timeoutMs: 300 });
          const committed = failure(snapshotter.commitLayer(short, coming.source, chainOf(coming.source)));
          coming.upTo(100_000);
          expect((await committed).kind).to.equal('deadlineExceeded');
          expect(await snapshotter.layers()).to.deep.equal([]);
          coming.end();
        });

        it('and are committed already are not read', async () => {
          const tar = await tarOf([file('a')]);
          const whole = bed.blob(tar);
          await snapshotter.commitLayer(op(), whole, chainOf(whole));
          const coming = bed.coming(tar);
          await snapshotter.commitLayer(op(), coming.source, chainOf(coming.source));
          expect(coming.isFollowed).to.equal(false);
          coming.end();
        });
      });

      it('may be 128 on each other, more than a page of paths holds', async function () {
        this.timeout(120_000);
        let top: Digest | undefined;
        for (let n = 0; n < 128; n++) top = await bed.commit(snapshotter, top, [file(`f${n}`, String(n))]);
        const rootfs = bed.mounted(await snapshotter.prepare(op(), 'k', top));
        expect(readdirSync(rootfs)).to.have.length(128);
        for (const n of [0, 64, 127]) expect(readFileSync(join(rootfs, `f${n}`), 'utf8')).to.equal(String(n));
      });

      it('may be empty', async () => {
        const top = await bed.commit(snapshotter, await bed.commit(snapshotter, undefined, [file('a')]), []);
        expect(readdirSync(await writable('k', top))).to.deep.equal(['a']);
      });

      it('are refused removal while something stands on them, and missing ones are removed already', async () => {
        const base = await bed.commit(snapshotter, undefined, [file('a')]);
        const top = await bed.commit(snapshotter, base, [file('b')]);
        await snapshotter.prepare(op(), 'k', top);
        expect((await failure(snapshotter.removeLayer(op(), base))).kind).to.equal('failedPrecondition');
        expect((await failure(snapshotter.removeLayer(op(), top))).kind).to.equal('failedPrecondition');
        await snapshotter.remove(op(), 'k');
        await snapshotter.removeLayer(op(), top);
        await snapshotter.removeLayer(op(), top);
        await snapshotter.removeLayer(op(), base);
        expect(await snapshotter.layers()).to.deep.equal([]);
        expect(await snapshotter.layersUsage()).to.deep.equal(await bed.layersOnDisk());
        expect((await failure(snapshotter.prepare(op(), 'k', base))).kind).to.equal('notFound');
      });
    });

    describe('contents', () => {
      it('keep modes, owners, times, links, devices and attributes', async () => {
        const top = await bed.commit(snapshotter, undefined, [
          dir('./', { mode: 0o751, uid: 3, gid: 4 }),
          dir('tmp', { mode: 0o1777 }),
          file('su', 'su', { mode: 0o4755, uid: 1000, gid: 2000 }),
          file('big-ids', '', { pax: { uid: '3000000', gid: '4000000' } }),
          { name: 'hard', type: 'link', linkname: 'su' },
          { name: 'soft', type: 'symlink', linkname: '/etc/passwd' },
          { name: 'null', type: 'character-device', devmajor: 1, devminor: 3, mode: 0o666 },
          { name: 'pipe', type: 'fifo', mode: 0o600 },
          file('tagged', '', { pax: { 'SCHILY.xattr.user.colour': 'blue', mtime: '1234567890.123456789' } }),
          file(`${'long/'.repeat(60)}name`, 'deep'),
          file('grüße-日本', 'text'),
        ]);
        const rootfs = await writable('k', top);
        const stat = (name: string): Stats => lstatSync(join(rootfs, name));
        expect([stat('.').mode & 0o7777, stat('.').uid, stat('.').gid]).to.deep.equal([0o751, 3, 4]);
        expect(stat('tmp').mode & 0o7777).to.equal(0o1777);
        expect([stat('su').mode & 0o7777, stat('su').uid, stat('su').gid]).to.deep.equal([0o4755, 1000, 2000]);
        expect(stat('su').mtimeMs).to.equal(1_000_000_000_000);
        expect([stat('big-ids').uid, stat('big-ids').gid]).to.deep.equal([3_000_000, 4_000_000]);
        expect(stat('hard').ino).to.equal(stat('su').ino);
        expect(readlinkSync(join(rootfs, 'soft'))).to.equal('/etc/passwd');
        expect([stat('null').isCharacterDevice(), stat('null').rdev]).to.deep.equal([true, 0x103]);
        expect(stat('pipe').isFIFO()).to.equal(true);
        expect(getXattr(join(rootfs, 'tagged'), 'user.colour')?.toString()).to.equal('blue');
        expect(lstatSync(join(rootfs, 'tagged'), { bigint: true }).mtimeNs).to.equal(1_234_567_890_123_456_789n);
        expect(readFileSync(join(rootfs, 'long/'.repeat(60), 'name'), 'utf8')).to.equal('deep');
        expect(readFileSync(join(rootfs, 'grüße-日本'), 'utf8')).to.equal('text');
      });

      it('hide what whiteouts name: a file, a directory, all that was in a directory', async () => {
        const base = await bed.commit(snapshotter, undefined, [
          file('a'),
          dir('d'),
          file('d/x'),
          dir('o', { mode: 0o711 }),
          file('o/old'),
          dir('r'),
          file('r/old'),
          file('keep'),
        ]);
        const top = await bed.commit(snapshotter, base, [
          file('.wh.a', ''),
          file('.wh.d', ''),
          dir('o', { mode: 0o711 }),
          file('o/new'),
          file('o/.wh..wh..opq', ''),
          // replaced within one layer: what is new stays, what was below does not show through
          file('.wh.r', ''),
          dir('r'),
          file('r/new'),
        ]);
        const rootfs = await writable('k', top);
        expect(readdirSync(rootfs).sort()).to.deep.equal(['keep', 'o', 'r']);
        expect(readdirSync(join(rootfs, 'o'))).to.deep.equal(['new']);
        expect(readdirSync(join(rootfs, 'r'))).to.deep.equal(['new']);
        expect(lstatSync(join(rootfs, 'o')).mtimeMs).to.equal(1_000_000_000_000);
        const again = await bed.commit(snapshotter, top, [file('a', 'back'), dir('d'), file('d/y')]);
        const second = await writable('k2', again);
        expect(readFileSync(join(second, 'a'), 'utf8')).to.equal('back');
        expect(readdirSync(join(second, 'd'))).to.deep.equal(['y']);
      });

      it('begin anew above an opaque root', async () => {
        const base = await bed.commit(snapshotter, undefined, [file('a')]);
        const top = await bed.commit(snapshotter, base, [file('.wh..wh..opq', ''), file('b')]);
        expect(readdirSync(await writable('k', top))).to.deep.equal(['b']);
      });

      it('replace a directory by a file and back', async () => {
        const one = await bed.commit(snapshotter, undefined, [dir('x'), file('x/in')]);
        const two = await bed.commit(snapshotter, one, [file('x', 'a file')]);
        const three = await bed.commit(snapshotter, two, [dir('x'), file('x/again')]);
        expect(readFileSync(join(await writable('k2', two), 'x'), 'utf8')).to.equal('a file');
        expect(readdirSync(join(await writable('k3', three), 'x'))).to.deep.equal(['again']);
      });

      it('leave directories that a layer only passes through as they were', async () => {
        const base = await bed.commit(snapshotter, undefined, [
          dir('./', { mode: 0o700, uid: 9 }),
          dir('tmp', { mode: 0o1777, uid: 7 }),
          dir('tmp/sub', { mode: 0o770, gid: 8 }),
        ]);
        const top = await bed.commit(snapshotter, base, [file('tmp/sub/file'), file('tmp/.wh.gone', ''), file('fresh/file')]);
        const rootfs = await writable('k', top);
        const of = (name: string): number[] => {
          const { mode, uid, gid } = lstatSync(join(rootfs, name));
          return [mode & 0o7777, uid, gid];
        };
        expect(of('.')).to.deep.equal([0o700, 9, 0]);
        expect(of('tmp')).to.deep.equal([0o1777, 7, 0]);
        expect(of('tmp/sub')).to.deep.equal([0o770, 0, 8]);
        expect(of('fresh')).to.deep.equal([0o755, 0, 0]);
      });
    });

    describe('hostile layers (S2, S3)', () => {
      it('write nowhere but into themselves, through symlinks, hard links and names', async () => {
        const outside = join(bed.dir, 'outside');
        mkdirSync(outside);
        writeFileSync(join(outside, 'victim'), 'untouched');
        symlinkSync(outside, join(bed.dir, 'link'));
        const up = '../'.repeat(20);
        const attempts: Entry[][] = [
          [{ name: 'l', type: 'symlink', linkname: outside }, file('l/victim', 'owned')],
          [{ name: 'l', type: 'symlink', linkname: outside }, file('l/.wh.victim', '')],
          [{ name: 'l', type: 'symlink', linkname: outside }, file('l/.wh..wh..opq', '')],
          [{ name: 'l', type: 'symlink', linkname: `${up}${outside.slice(1)}` }, file('l/new', 'owned')],
          [{ name: 'l', type: 'symlink', linkname: join(outside, 'victim') }, file('l', 'owned')],
          [{ name: 'h', type: 'link', linkname: join(outside, 'victim') }, file('h', 'owned')],
          [{ name: 'h', type: 'link', linkname: `${up}${outside.slice(1)}/victim` }, file('h', 'owned')],
          [file(join(outside, 'victim'), 'owned')],
          [file(`${up}${outside.slice(1)}/victim`, 'owned')],
          [dir('a'), { name: 'a/b', type: 'symlink', linkname: up }, file(`a/b${outside}/victim`, 'owned')],
          [
            { name: 'l', type: 'symlink', linkname: '.' },
            { name: 'l/m', type: 'symlink', linkname: '/' },
            file(`m${outside}/victim`, 'owned'),
          ],
          [dir('l'), { name: 'l', type: 'symlink', linkname: outside }, dir('l', { mode: 0o777 }), file('l/new', 'fine')],
        ];
        for (const entries of attempts) {
          // Refused or kept inside: both will do.
          await failure(bed.commit(snapshotter, undefined, entries));
          await failure(bed.commit(snapshotter, await bed.commit(snapshotter, undefined, [file('base')]), entries));
          expect(readdirSync(outside), JSON.stringify(entries)).to.deep.equal(['victim']);
          expect(readFileSync(join(outside, 'victim'), 'utf8')).to.equal('untouched');
          expect(lstatSync(join(outside, 'victim')).nlink).to.equal(1);
          expect(lstatSync(outside).mode & 0o7777).to.equal(0o755);
          expect(getXattr(outside, 'trusted.overlay.opaque')).to.equal(undefined);
        }
      });

      it('cannot leave by `..`', async () => {
        for (const entries of [[file('../x')], [file('a/../../x')], [file('a/.wh..', '')], [file('.wh...', '')], [file('.wh.', '')]]) {
          const error = await failure(bed.commit(snapshotter, undefined, entries));
          expect(error.kind, error.message).to.equal('failedPrecondition');
        }
        expect(await snapshotter.layers()).to.deep.equal([]);
      });

      it("can't steer the union filesystem by attributes", async () => {
        const base = await bed.commit(snapshotter, undefined, [dir('secret'), file('secret/key'), dir('d')]);
        const top = await bed.commit(snapshotter, base, [
          dir('d', { pax: { 'SCHILY.xattr.trusted.overlay.redirect': '/secret', 'SCHILY.xattr.trusted.overlay.opaque': 'y' } }),
        ]);
        expect(readdirSync(join(await writable('k', top), 'd'))).to.deep.equal([]);
      });
    });

    describe('snapshots', () => {
      let top: Digest;
      beforeEach(async () => {
        const base = await bed.commit(snapshotter, undefined, [file('a'), dir('d'), file('d/b')]);
        top = await bed.commit(snapshotter, base, [file('c')]);
      });

      it('are writable, apart from each other and from their layers', async () => {
        const one = await writable('one', top);
        const two = await writable('two', top);
        writeFileSync(join(one, 'a'), 'changed');
        rmSync(join(one, 'd'), { recursive: true });
        expect(readFileSync(join(two, 'a'), 'utf8')).to.equal('a');
        expect(readdirSync(two).sort()).to.deep.equal(['a', 'c', 'd']);
        expect(snapshotter.upperDir('one')).to.be.a('string');
        expect((await snapshotter.usage('one')).inodes).to.be.greaterThan(1);
      });

      it('prepared again have the same mounts and the same files', async () => {
        const specs = await snapshotter.prepare(op(), 'k', top);
        const first = bed.mounted(specs);
        writeFileSync(join(first, 'mine'), 'x');
        await umount(first);
        expect(await snapshotter.prepare(op(), 'k', top)).to.deep.equal(specs);
        const second = bed.mounted(specs);
        expect(readFileSync(join(second, 'mine'), 'utf8')).to.equal('x');
        expect((await failure(snapshotter.prepare(op(), 'k', undefined))).kind).to.equal('failedPrecondition');
      });

      const ownersOf = (root: string, ...names: string[]): string[] =>
        names.map((name) => {
          const { uid, gid } = lstatSync(join(root, name));
          return `${name} ${uid}:${gid}`;
        });

      it('seen through user namespaces share their layers; what is written has the ids outside', async function () {
        if (!snapshotter.idmaps) this.skip();
        const owned = await bed.commit(snapshotter, top, [file('mine', 'm', { uid: 7, gid: 8 }), dir('d', { uid: 9, gid: 9 })]);
        const one = bed.mounted(await snapshotter.prepare(op(), 'one', owned, await bed.idmap(100_000, 200_000)));
        const two = bed.mounted(await snapshotter.prepare(op(), 'two', owned, await bed.idmap(300_000, 300_000)));
        const plain = await writable('plain', owned);
        expect(ownersOf(one, '', 'a', 'mine', 'd')).to.deep.equal([
          ' 100000:200000',
          'a 100000:200000',
          'mine 100007:200008',
          'd 100009:200009',
        ]);
        expect(ownersOf(two, 'mine')).to.deep.equal(['mine 300007:300008']);
        expect(ownersOf(plain, 'mine')).to.deep.equal(['mine 7:8']);
        writeFileSync(join(one, 'mine'), 'changed');
        rmSync(join(one, 'a'));
        expect(ownersOf(snapshotter.upperDir('one') ?? '', 'mine')).to.deep.equal(['mine 100007:200008']);
        expect(readFileSync(join(two, 'mine'), 'utf8')).to.equal('m');
        expect(readdirSync(two).sort()).to.deep.equal(['a', 'c', 'd', 'mine']);
        // Nothing of how it was made is left.
        expect(mountsUnder(join(bed.dir, 'layers-view'))).to.deep.equal([]);
        expect(existsSync(join(bed.dir, 'layers-view'))).to.equal(false);
      });

      it('are whole however many are made and removed at once, some of them through user namespaces', async function () {
        // As under systemd: what is unmounted below one peer of a shared mount goes below all of them.
        mount({ type: '', source: bed.dir, target: bed.dir, flags: ['bind'] });
        mount({ type: '', source: '', target: bed.dir, flags: ['shared'] });
        const idmap = snapshotter.idmaps ? await bed.idmap(100_000, 200_000) : undefined;
        const layerMounts = (): string[] => mountsUnder(join(bed.root, 'layers'));
        await writable('stays', top);
        const before = layerMounts();
        const round = async (names: readonly string[]): Promise<void> => {
          for (const key of names) {
            const isMapped = key.startsWith('mapped');
            const make = key.includes('view') ? snapshotter.view.bind(snapshotter) : snapshotter.prepare.bind(snapshotter);
            const target = bed.mounted(await make(op(), key, top, isMapped ? idmap : undefined));
            expect(readdirSync(target).sort(), key).to.deep.equal(['a', 'c', 'd']);
            expect(readFileSync(join(target, 'd/b'), 'utf8'), key).to.equal('d/b');
            expect(layerMounts(), key).to.deep.equal(before);
            await umount(target);
            await snapshotter.remove(op(), key);
          }
        };
        const kinds = ['mapped', 'mapped-2', 'mapped-view', 'plain', 'plain-2', 'plain-view'];
        await Promise.all(kinds.map((kind) => round(Array.from({ length: 20 }, (_, turn) => `${kind}-${turn}`))));
        expect(await snapshotter.keys()).to.deep.equal(['stays']);
      });

      it('on nothing and as views can be seen through one too', async function () {
        if (!snapshotter.idmaps) this.skip();
        const base = await bed.commit(snapshotter, undefined, [file('mine', 'm', { uid: 7, gid: 8 })]);
        const second = await bed.commit(snapshotter, base, [file('more')]);
        const idmap = await bed.idmap(100_000, 200_000);
        expect(ownersOf(bed.mounted(await snapshotter.prepare(op(), 'k', undefined, idmap)), '')).to.deep.equal([' 100000:200000']);
        for (const [key, parent] of [
          ['v1', base],
          ['v2', second],
        ] as const) {
          const view = bed.mounted(await snapshotter.view(op(), key, parent, idmap));
          expect(ownersOf(view, 'mine')).to.deep.equal(['mine 100007:200008']);
          expect(() => writeFileSync(join(view, 'x'), '')).to.throw('EROFS');
        }
      });

      it('may stand on nothing', async () => {
        const rootfs = await writable('k', undefined);
        expect(readdirSync(rootfs)).to.deep.equal([]);
        writeFileSync(join(rootfs, 'x'), 'x');
      });

      it('as views are read-only', async () => {
        const base = (await snapshotter.layers())[0];
        for (const [key, parent] of [
          ['v0', undefined],
          ['v1', base],
          ['v2', top],
        ] as const) {
          const target = bed.mounted(await snapshotter.view(op(), key, parent));
          expect(readdirSync(target), key).to.deep.equal(key === 'v0' ? [] : key === 'v1' ? ['a', 'd'] : ['a', 'c', 'd']);
          expect(() => writeFileSync(join(target, 'x'), ''), key).to.throw('EROFS');
          expect(snapshotter.upperDir(key)).to.equal(undefined);
          expect(await snapshotter.view(op(), key, parent)).to.have.length.greaterThan(0);
        }
      });

      it('are removed with all they hold, and again without complaint', async () => {
        const rootfs = await writable('k', top);
        let deep = rootfs;
        for (let depth = 0; depth < 40; depth++) deep = join(deep, 'd'.repeat(50));
        mkdirSync(deep, { recursive: true });
        await umount(rootfs);
        await snapshotter.remove(op(), 'k');
        await snapshotter.remove(op(), 'k');
        expect(await snapshotter.keys()).to.deep.equal([]);
        expect(snapshotter.upperDir('k')).to.equal(undefined);
        expect((await failure(snapshotter.usage('k'))).kind).to.equal('notFound');
        expect(readdirSync(await writable('k', top)).sort()).to.deep.equal(['a', 'c', 'd']);
      });

      it('have keys that are one path component', async () => {
        for (const key of ['', '.', '..', 'a/b', '../x', 'x\0y', 'a,b']) {
          expect((await failure(snapshotter.prepare(op(), key, top))).kind, key).to.equal('invalidArgument');
        }
      });

      it('and layers are there after a restart', async () => {
        const rootfs = await writable('k', top);
        writeFileSync(join(rootfs, 'mine'), 'x');
        const reopened = await open(bed.root);
        expect((await reopened.keys()).sort()).to.deep.equal(await snapshotter.keys());
        expect((await reopened.layers()).sort()).to.deep.equal((await snapshotter.layers()).sort());
        expect(await reopened.layersUsage()).to.deep.equal(await snapshotter.layersUsage());
        expect(await reopened.layersUsage()).to.deep.equal(await bed.layersOnDisk());
        expect(await reopened.prepare(op(), 'k', top)).to.deep.equal(await snapshotter.prepare(op(), 'k', top));
        expect(readFileSync(join(rootfs, 'mine'), 'utf8')).to.equal('x');
      });
    });
  });
}
