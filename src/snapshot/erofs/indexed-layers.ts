import { randomBytes } from 'node:crypto';
import { closeSync, openSync } from 'node:fs';
import type { FileHandle } from 'node:fs/promises';
import { lstat, mkdir, open, readdir, rename, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { crc32 } from 'node:zlib';
import type { Digest } from '../../base/digest.ts';
import { ClassifiedError, errnoOf, kindOf, messageOf } from '../../base/errors.ts';
import { KeyedLock } from '../../base/keyed-lock.ts';
import type { Op } from '../../base/op.ts';
import { throwIfOver } from '../../base/op.ts';
import { syncDir } from '../../os/atomic-file.ts';
import type { DiskUsage } from '../../os/disk-usage.ts';
import { blocksOf, usageOf } from '../../os/disk-usage.ts';
import { hasDigest } from '../../os/file-digest.ts';
import type { Completed, LayerFiles, LayerStore, Unpacked } from '../layer-store.ts';
import { runLayerJob } from '../layer-thread.ts';
import type { StorePlaces } from '../layered.ts';
import type { Layer, StoredIndex, StoredTar } from '../overlay-records.ts';
import { PlainInput } from '../plain-input.ts';
import type { CheckDepth, LayerSource } from '../snapshotter.ts';
import type { InodeAttributes } from './format.ts';
import { INODE_BYTES, patchAttributes, readInode } from './format.ts';
import type { IndexedLayer, IndexJob, IndexReply } from './index-job.ts';
import { IndexReader } from './index-reader.ts';
import type { Backing } from './mounting.ts';
import { detachIndex, EROFS_MAGIC, isMounted, mountIndex } from './mounting.ts';

/** Each step is some microseconds of system calls on the event loop. */
const STEPS_PER_TURN = 100;

interface Tar extends StoredTar {
  /** What its file takes on disk. */
  readonly diskBytes: number;
  /** Layers that are made of it, and commits under way. */
  users: number;
}

/**
 * `tars/<file>` are layers' tars as they came, each once, `layers/<n>/index` what makes a filesystem of one, mounted at `layers/<n>/fs`. The same tar can be
 * a layer several times, for an index depends on what is below it.
 */
export class IndexedLayers implements LayerStore {
  readonly name = 'erofs';
  readonly mountedAs = EROFS_MAGIC;
  readonly #parts: StorePlaces & { readonly backing: Backing };
  readonly #layersDir: string;
  readonly #tarsDir: string;
  /** By file. */
  readonly #tars = new Map<string, Tar>();
  /** By diffID: what further layers are made of. */
  readonly #reusable = new Map<Digest, Tar>();
  /** By diffID. */
  readonly #locks = new KeyedLock();

  constructor(parts: StorePlaces & { backing: Backing }) {
    this.#parts = parts;
    this.#layersDir = join(parts.root, 'layers');
    this.#tarsDir = join(parts.root, 'tars');
  }

  async load(layers: readonly Layer[]): Promise<readonly Layer[]> {
    const lost: Layer[] = [];
    for (const layer of layers) {
      try {
        await this.#adopt(layer);
      } catch (error) {
        this.#parts.log.warn({ chainId: layer.chainId, err: messageOf(error) }, 'the content of a layer is lost');
        lost.push(layer);
      }
    }
    for (const name of await readdir(this.#tarsDir)) if (!this.#tars.has(name)) await this.#parts.trash.discard(join(this.#tarsDir, name));
    return lost;
  }

  async #adopt({ name, tar, index }: Layer): Promise<void> {
    if (tar === undefined) throw new Error('its record names no tar');
    const { size: indexBytes } = await lstat(join(this.#layersDir, name, 'index'));
    if (index !== undefined && indexBytes !== index.sizeBytes) throw new Error(`its index has ${indexBytes} of ${index.sizeBytes} bytes`);
    const known = this.#tars.get(tar.file);
    const file = await lstat(join(this.#tarsDir, tar.file));
    if (file.size < tar.sizeBytes) throw new Error(`its tar has ${file.size} of ${tar.sizeBytes} bytes`);
    if (known === undefined) this.#add({ ...tar, diskBytes: blocksOf(file), users: 1 });
    else known.users++;
  }

  #add(tar: Tar): void {
    this.#tars.set(tar.file, tar);
    this.#reusable.set(tar.diffId, tar);
  }

  /** Layers that are made of it keep it. */
  #reuseNoMore(tar: Tar): void {
    if (this.#reusable.get(tar.diffId) === tar) this.#reusable.delete(tar.diffId);
  }

  async unpack(op: Op, source: LayerSource, { dir, isBottom }: { dir: string; isBottom: boolean }): Promise<Unpacked> {
    // Another image may be bringing the same layer at this moment.
    using _ = await this.#locks.lock(source.diffId);
    throwIfOver(op);
    await mkdir(join(dir, 'fs'), { mode: 0o700 });
    const stored = this.#reusable.get(source.diffId);
    if (stored !== undefined) {
      try {
        return await this.#make(op, source, { dir, isBottom, stored });
      } catch (error) {
        if (kindOf(error) !== 'dataLoss') throw error;
        this.#parts.log.warn(
          { diffId: source.diffId, err: messageOf(error) },
          'the stored tar of a layer is damaged; it comes from its blob',
        );
        this.#reuseNoMore(stored);
        await rm(join(dir, 'index'), { force: true });
      }
    }
    return await this.#make(op, source, { dir, isBottom, stored: undefined });
  }

  async #make(op: Op, source: LayerSource, into: { dir: string; isBottom: boolean; stored: Tar | undefined }): Promise<Unpacked> {
    const { dir, stored } = into;
    if (stored !== undefined) stored.users++;
    let tar = stored;
    try {
      const indexed = await this.#index(op, source, into);
      if (indexed.diffId !== source.diffId)
        throw new ClassifiedError('dataLoss', `unpack layer ${source.diffId}: its content is ${indexed.diffId}`);
      tar ??= await this.#keep(dir, indexed);
      return this.#unpacked(dir, tar, indexed);
    } catch (error) {
      if (tar !== undefined) await this.#release(tar);
      throw error;
    }
  }

  /** The tar's file gets its name; durable when this resolves. */
  async #keep(dir: string, { diffId, tarBytes }: IndexedLayer): Promise<Tar> {
    // Never a name that was used before: a file that is on its way to be deleted is not in the way.
    const file = `${diffId.slice('sha256:'.length)}.${randomBytes(4).toString('hex')}`;
    await rename(join(dir, 'tar'), join(this.#tarsDir, file));
    await syncDir(this.#tarsDir);
    const diskBytes = blocksOf(await lstat(join(this.#tarsDir, file)));
    const tar = { diffId, sizeBytes: tarBytes, file, diskBytes, users: 1 };
    this.#add(tar);
    return tar;
  }

  #unpacked(dir: string, tar: Tar, indexed: IndexedLayer): Unpacked {
    let isCommitted = false;
    return {
      opaqueRoot: indexed.opaqueRoot,
      tar: { diffId: tar.diffId, sizeBytes: tar.sizeBytes, file: tar.file },
      complete: (op, lowers) => this.#complete(op, { dir, lowers, implied: indexed.implied }),
      commit: () => {
        isCommitted = true;
      },
      [Symbol.asyncDispose]: async () => {
        if (!isCommitted) await this.#release(tar);
      },
    };
  }

  /** Stores and indexes the blob, or only indexes what is stored. */
  async #index(op: Op, source: LayerSource, into: { dir: string; isBottom: boolean; stored: Tar | undefined }): Promise<IndexedLayer> {
    const { dir, isBottom, stored } = into;
    // The tar is read instead of a blob that may be on its way; whether that arrives is asked later.
    const from =
      stored === undefined ? source : { diffId: source.diffId, blobPath: join(this.#tarsDir, stored.file), mediaType: 'stored.tar' };
    using input = await PlainInput.open(from);
    throwIfOver(op);
    using fds = new DisposableStack();
    const create = (name: string): number => fds.adopt(openSync(join(dir, name), 'wx', 0o600), closeSync);
    const job: IndexJob = {
      input: input.source,
      dataFd: stored === undefined ? create('tar') : undefined,
      storedBytes: stored?.sizeBytes,
      indexFd: create('index'),
      isBottom,
    };
    const reply = await runLayerJob<IndexReply>(op, new URL('./index-worker', import.meta.url), { job, transfer: input.transfer });
    throwIfOver(op);
    if ('error' in reply) throw new ClassifiedError(reply.kind, reply.error);
    return reply;
  }

  async #complete(op: Op, layer: { dir: string; lowers: readonly string[]; implied: IndexedLayer['implied'] }): Promise<Completed> {
    const { dir, lowers, implied } = layer;
    await using index = await open(join(dir, 'index'), 'r+');
    if (lowers.length > 0) await this.#adoptImplied(op, { index, lowers, implied });
    await index.datasync();
    const parts = await usageOf([dir, join(dir, 'fs'), join(dir, 'index')]);
    // The record is one more.
    const usage = { ...parts, inodes: parts.inodes + 1 };
    return { usage, index: await checksumOf(index) };
  }

  /** Directories that the layer holds without saying anything of them look like those of the layers below, as if it had been unpacked on top of them. */
  async #adoptImplied(
    op: Op,
    { index, lowers, implied }: { index: FileHandle; lowers: readonly string[]; implied: IndexedLayer['implied'] },
  ): Promise<void> {
    if (implied.length === 0) return;
    using stack = new DisposableStack();
    const readers = lowers.map((name) => stack.use(new IndexReader(join(this.#layersDir, name, 'index'))));
    const bytes = Buffer.alloc(INODE_BYTES);
    for (const [done, { path, offset }] of implied.entries()) {
      let model: InodeAttributes | undefined;
      for (let at = 0; model === undefined && at < readers.length; at++) model = readers[at]?.dir(path);
      if (model !== undefined) {
        await index.read(bytes, 0, INODE_BYTES, offset);
        patchAttributes(bytes, 0, { ...model, mode: (readInode(bytes).mode & ~0o7777) | (model.mode & 0o7777) });
        await index.write(bytes, 0, INODE_BYTES, offset);
      }
      if (done % STEPS_PER_TURN !== STEPS_PER_TURN - 1) continue;
      await nextTurn();
      throwIfOver(op);
    }
  }

  mount({ name, tar }: Layer): void {
    const target = join(this.#layersDir, name, 'fs');
    if (tar === undefined || isMounted(target)) return;
    const layer = { index: join(this.#layersDir, name, 'index'), tar: join(this.#tarsDir, tar.file), target };
    mountIndex(layer, this.#parts.backing);
  }

  unmount(name: string): void {
    detachIndex(join(this.#layersDir, name, 'fs'));
  }

  /** All but what the record itself takes was known when it was written. */
  usage({ usage }: Layer, { record }: LayerFiles): DiskUsage {
    return { sizeBytes: usage.sizeBytes + record.sizeBytes, inodes: usage.inodes };
  }

  async shared(): Promise<DiskUsage> {
    const { sizeBytes, inodes } = await usageOf([this.#tarsDir]);
    const tars = [...this.#tars.values()];
    return { sizeBytes: tars.reduce((sum, { diskBytes }) => sum + diskBytes, sizeBytes), inodes: inodes + tars.length };
  }

  async isIntact(op: Op, { name, tar, index }: Layer, depth: CheckDepth): Promise<boolean> {
    if (index !== undefined) {
      await using file = await open(join(this.#layersDir, name, 'index'), 'r').catch(absent);
      const found = file && (await checksumOf(file));
      if (found?.sizeBytes !== index.sizeBytes || found.crc32 !== index.crc32) return false;
    }
    const stored = tar && this.#tars.get(tar.file);
    if (stored === undefined) return false;
    const path = join(this.#tarsDir, stored.file);
    const { diffId, sizeBytes } = stored;
    if (depth === 'quick') return ((await lstat(path).catch(absent))?.size ?? 0) >= sizeBytes;
    if (await hasDigest(op, path, { digest: diffId, sizeBytes })) return true;
    this.#reuseNoMore(stored);
    return false;
  }

  async forget({ tar }: Layer): Promise<void> {
    const stored = tar && this.#tars.get(tar.file);
    if (stored !== undefined) await (await this.#release(stored)).deleted;
  }

  /** Resolves when the tar can't be found any more; `deleted` when its space is free. */
  async #release(tar: Tar): Promise<{ deleted: Promise<void> }> {
    if (--tar.users > 0) return { deleted: Promise.resolve() };
    this.#tars.delete(tar.file);
    this.#reuseNoMore(tar);
    return this.#parts.trash.discard(join(this.#tarsDir, tar.file));
  }
}

const READ_BYTES = 256 << 10;

/** Some milliseconds for the index of 100,000 files; a digest would take ten times as long, and there is nobody to deceive. */
async function checksumOf(file: FileHandle): Promise<StoredIndex> {
  const buffer = Buffer.allocUnsafe(READ_BYTES);
  for (let [sizeBytes, sum] = [0, 0]; ;) {
    const { bytesRead } = await file.read(buffer, 0, READ_BYTES, sizeBytes);
    if (bytesRead === 0) return { sizeBytes, crc32: sum };
    sum = crc32(buffer.subarray(0, bytesRead), sum);
    sizeBytes += bytesRead;
  }
}

function absent(error: unknown): undefined {
  if (errnoOf(error) !== 'ENOENT') throw error;
}
