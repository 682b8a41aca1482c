import { randomBytes } from 'node:crypto';
import { openSync, closeSync } from 'node:fs';
import { chmod, chown, mkdir, readdir, rename, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import type { Digest } from '../base/digest.ts';
import { ClassifiedError, errnoOf, messageOf, notFound } from '../base/errors.ts';
import { KeyedLock } from '../base/keyed-lock.ts';
import type { Logger } from '../base/log.ts';
import type { Op } from '../base/op.ts';
import { newOp } from '../base/op.ts';
import { readJson, syncDir, writeJson } from '../os/atomic-file.ts';
import { mount, umount } from '../os/mount.ts';
import { run } from '../os/spawn.ts';
import { syncfs } from '../os/syscalls.ts';
import type { LayerSource, MountSpec, Snapshotter, Usage } from './snapshotter.ts';
import { unpackLayer } from './unpack.ts';

interface Layer {
  readonly version: 1;
  readonly chainId: Digest;
  readonly parent: Digest | null;
  readonly usage: Usage;
  /** Directory name below layers/: short, because mount(2) takes one page of options. */
  readonly name: string;
}

interface Active {
  readonly version: 1;
  readonly key: string;
  readonly parent: Digest | null;
  readonly readOnly: boolean;
}

/** mount(2) copies one page. */
const MAX_MOUNT_DATA_BYTES = 4095;
const USAGE_CACHE_MS = 10_000;

/**
 * Layers as directories, unpacked once, a container's rootfs an overlay over them. `<root>/layers/<n>/{fs,layer.json}`, `<root>/active/<key>/{upper,work,snapshot.json}`;
 * what is unfinished lies in tmp/, what is being deleted in trash/, and both are emptied at the start.
 */
export async function createOverlaySnapshotter(options: { root: string; log: Logger }): Promise<Snapshotter> {
  const { root, log } = options;
  for (const dir of ['layers', 'active', 'tmp', 'trash']) await mkdir(join(root, dir), { recursive: true, mode: 0o700 });
  const snapshotter = new OverlaySnapshotter(root, log, await isVolatileKnown(root));
  await snapshotter.load();
  return snapshotter;
}

class OverlaySnapshotter implements Snapshotter {
  readonly name = 'overlay';
  readonly #root: string;
  readonly #log: Logger;
  readonly #volatile: boolean;
  readonly #layers = new Map<Digest, Layer>();
  readonly #active = new Map<string, Active>();
  readonly #locks = new KeyedLock();
  readonly #usages = new Map<string, { atMs: number; usage: Promise<Usage> }>();
  #nextLayer = 1;

  constructor(root: string, log: Logger, volatile: boolean) {
    this.#root = root;
    this.#log = log;
    this.#volatile = volatile;
  }

  async load(): Promise<void> {
    for (const dir of ['tmp', 'trash']) for (const name of await readdir(join(this.#root, dir))) await removeTree(join(this.#root, dir, name));
    for (const name of await readdir(join(this.#root, 'layers'))) {
      const layer = await this.#readOr<Layer>(join(this.#root, 'layers', name, 'layer.json'));
      this.#nextLayer = Math.max(this.#nextLayer, Number(name) + 1);
      if (layer?.version === 1) this.#layers.set(layer.chainId, { ...layer, name });
    }
    for (const name of await readdir(join(this.#root, 'active'))) {
      const active = await this.#readOr<Active>(join(this.#root, 'active', name, 'snapshot.json'));
      this.#active.set(name, active ?? { version: 1, key: name, parent: null, readOnly: false });
    }
  }

  async #readOr<T>(path: string): Promise<T | undefined> {
    try {
      return (await readJson(path)) as T;
    } catch (error) {
      this.#log.warn({ path, err: messageOf(error) }, 'a snapshot record can not be read');
      return undefined;
    }
  }

  async commitLayer(op: Op, source: LayerSource, chain: { parent: Digest | undefined; chainId: Digest }): Promise<void> {
    using _ = await this.#locks.lock(chain.chainId);
    if (this.#layers.has(chain.chainId)) return;
    if (chain.parent !== undefined && !this.#layers.has(chain.parent)) throw notFound('layer', chain.parent);
    const temporary = join(this.#root, 'tmp', randomBytes(8).toString('hex'));
    try {
      const fs = join(temporary, 'fs');
      await mkdir(fs, { recursive: true, mode: 0o700 });
      await chmod(fs, 0o755);
      await unpackLayer(op, source, fs);
      const layer: Layer = {
        version: 1,
        chainId: chain.chainId,
        parent: chain.parent ?? null,
        usage: await measure(op, fs),
        name: String(this.#nextLayer++),
      };
      await writeJson(join(temporary, 'layer.json'), layer);
      // The data of every file is on disk before the name that says so (R8).
      syncFilesystem(temporary);
      await rename(temporary, join(this.#root, 'layers', layer.name));
      await syncDir(join(this.#root, 'layers'));
      this.#layers.set(chain.chainId, layer);
    } finally {
      await removeTree(temporary);
    }
  }

  async hasLayer(chainId: Digest): Promise<boolean> {
    return this.#layers.has(chainId);
  }

  async prepare(op: Op, key: string, parent: Digest | undefined): Promise<readonly MountSpec[]> {
    return this.#open(op, key, { parent, readOnly: false });
  }

  async view(op: Op, key: string, parent: Digest | undefined): Promise<readonly MountSpec[]> {
    return this.#open(op, key, { parent, readOnly: true });
  }

  async #open(_op: Op, key: string, wanted: { parent: Digest | undefined; readOnly: boolean }): Promise<readonly MountSpec[]> {
    if (!/^[A-Za-z0-9._-]+$/.test(key)) throw new ClassifiedError('invalidArgument', `snapshot key ${JSON.stringify(key)}`);
    using _ = await this.#locks.lock(key);
    const dir = join(this.#root, 'active', key);
    const lowers = this.#lowers(wanted.parent);
    if (!this.#active.has(key)) {
      const active: Active = { version: 1, key, parent: wanted.parent ?? null, readOnly: wanted.readOnly };
      await mkdir(join(dir, 'work'), { recursive: true, mode: 0o700 });
      await mkdir(join(dir, 'upper'), { recursive: true, mode: 0o755 });
      const top = lowers[0];
      if (top !== undefined) {
        // The merged root looks like the topmost directory, which is ours.
        const { mode, uid, gid } = await stat(top);
        await chown(join(dir, 'upper'), uid, gid);
        await chmod(join(dir, 'upper'), mode & 0o7777);
      }
      await writeJson(join(dir, 'snapshot.json'), active);
      this.#active.set(key, active);
    }
    // A volatile overlay that was not unmounted (a power cut) leaves this mark, and refuses to be mounted again.
    await rm(join(dir, 'work', 'work', 'incompat'), { recursive: true, force: true });
    return [this.#mountOf(dir, lowers, wanted.readOnly)];
  }

  #mountOf(dir: string, lowers: readonly string[], readOnly: boolean): MountSpec {
    const upper = join(dir, 'upper');
    const [only] = lowers;
    if (only === undefined) return { type: '', source: upper, flags: ['bind'], data: '' };
    if (readOnly && lowers.length === 1) return { type: '', source: only, flags: ['bind', 'ro'], data: '' };
    const writable = readOnly ? [] : [`upperdir=${upper}`, `workdir=${join(dir, 'work')}`, ...(this.#volatile ? ['volatile'] : [])];
    const data = [`lowerdir=${lowers.join(':')}`, ...writable].join(',');
    if (Buffer.byteLength(data) > MAX_MOUNT_DATA_BYTES) {
      throw new ClassifiedError('resourceExhausted', `mount ${lowers.length} layers: their paths need ${Buffer.byteLength(data)} bytes, the kernel takes ${MAX_MOUNT_DATA_BYTES}`);
    }
    return { type: 'overlay', source: 'overlay', flags: readOnly ? ['ro'] : [], data };
  }

  /** Topmost first, as overlayfs wants them. */
  #lowers(top: Digest | undefined): string[] {
    const dirs: string[] = [];
    for (let chainId = top ?? null; chainId !== null; ) {
      const layer: Layer | undefined = this.#layers.get(chainId);
      if (layer === undefined) throw notFound('layer', chainId);
      dirs.push(join(this.#root, 'layers', layer.name, 'fs'));
      chainId = layer.parent;
    }
    return dirs;
  }

  upperDir(key: string): string | undefined {
    return this.#active.get(key)?.readOnly === false ? join(this.#root, 'active', key, 'upper') : undefined;
  }

  async remove(op: Op, key: string): Promise<void> {
    using _ = await this.#locks.lock(key);
    this.#active.delete(key);
    this.#usages.delete(key);
    await this.#discard(op, join(this.#root, 'active', key));
  }

  async removeLayer(op: Op, chainId: Digest): Promise<void> {
    using _ = await this.#locks.lock(chainId);
    const layer = this.#layers.get(chainId);
    if (layer === undefined) return;
    const child = [...this.#layers.values()].find(({ parent }) => parent === chainId);
    const active = [...this.#active.values()].find(({ parent }) => parent === chainId);
    const user = child?.chainId ?? active?.key;
    if (user !== undefined) throw new ClassifiedError('failedPrecondition', `remove layer ${chainId}: ${user} stands on it`);
    this.#layers.delete(chainId);
    await this.#discard(op, join(this.#root, 'layers', layer.name));
  }

  /** Gone under its name at once; the files go in a process that manages any depth (R37). */
  async #discard(op: Op, dir: string): Promise<void> {
    const trash = join(this.#root, 'trash', randomBytes(8).toString('hex'));
    try {
      await rename(dir, trash);
    } catch (error) {
      if (errnoOf(error) === 'ENOENT') return;
      throw error;
    }
    await removeTree(trash, op);
  }

  async keys(): Promise<string[]> {
    return [...this.#active.keys()];
  }

  async layers(): Promise<Digest[]> {
    return [...this.#layers.keys()];
  }

  async usage(key: string): Promise<Usage> {
    const upper = this.upperDir(key);
    if (upper === undefined) throw notFound('snapshot', key);
    const cached = this.#usages.get(key);
    if (cached && Date.now() - cached.atMs < USAGE_CACHE_MS) return cached.usage;
    const usage = measure(newOp('usage', { timeoutMs: 60_000 }), upper);
    this.#usages.set(key, { atMs: Date.now(), usage });
    usage.catch(() => this.#usages.delete(key));
    return usage;
  }

  async layerUsage(chainId: Digest): Promise<Usage> {
    const layer = this.#layers.get(chainId);
    if (layer === undefined) throw notFound('layer', chainId);
    return layer.usage;
  }

  root(): string {
    return this.#root;
  }
}

async function measure(op: Op, dir: string): Promise<Usage> {
  const [size, inodes] = await Promise.all([
    run(op, { argv: ['du', '-s', '-x', '-B1', '--', dir] }),
    run(op, { argv: ['du', '-s', '-x', '--inodes', '--', dir] }),
  ]);
  // A file that vanishes under du is no failure of the measurement: its sum stands.
  const number = (text: Buffer): number => Number(/^\d+/.exec(text.toString('utf8'))?.[0] ?? 0);
  return { sizeBytes: number(size.stdout), inodes: number(inodes.stdout) };
}

async function removeTree(path: string, op: Op = newOp('remove tree', { timeoutMs: 600_000 })): Promise<void> {
  const { exitCode, stderr } = await run(op, { argv: ['rm', '-rf', '--one-file-system', '--', path] });
  if (exitCode !== 0) throw new ClassifiedError('internal', `remove ${path}: ${stderr.toString('utf8').trim()}`);
}

function syncFilesystem(path: string): void {
  const fd = openSync(path, 'r');
  try {
    syncfs(fd);
  } finally {
    closeSync(fd);
  }
}

/** `volatile` (Linux 5.10): an unmount does not write the whole filesystem back; a container's files need not survive a power cut. */
async function isVolatileKnown(root: string): Promise<boolean> {
  const probe = join(root, 'tmp', `probe-${randomBytes(4).toString('hex')}`);
  for (const dir of ['lower', 'upper', 'work', 'merged']) await mkdir(join(probe, dir), { recursive: true });
  try {
    const data = `lowerdir=${probe}/lower,upperdir=${probe}/upper,workdir=${probe}/work,volatile`;
    mount({ type: 'overlay', source: 'overlay', target: join(probe, 'merged'), data });
    return true;
  } catch {
    return false;
  } finally {
    await umount(join(probe, 'merged'));
    await removeTree(probe);
  }
}
