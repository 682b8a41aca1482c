import { randomBytes } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { chmod, chown, mkdir, readdir, rename, rm, stat, writeFile } from 'node:fs/promises';
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { allDone } from '../base/all-done.ts';
import { assert } from '../base/assert.ts';
import type { Digest } from '../base/digest.ts';
import { chainIdOf } from '../base/digest.ts';
import { ClassifiedError, invalidArgument, kindOf, messageOf, notFound } from '../base/errors.ts';
import { KeyedLock } from '../base/keyed-lock.ts';
import type { Logger } from '../base/log.ts';
import type { Op } from '../base/op.ts';
import { Slots } from '../base/slots.ts';
import { syncDir, writeJson } from '../os/atomic-file.ts';
import type { DiskUsage } from '../os/disk-usage.ts';
import { sumOf, usageOf } from '../os/disk-usage.ts';
import type { openProjectCounter } from '../os/project-counter.ts';
import type { LayerFiles, LayerStore, Unpacked } from './layer-store.ts';
import type { OverlayOptions } from './overlay-mounts.ts';
import { bindMounts, overlayMount, probeIdmap, probeOverlay, ShortDir } from './overlay-mounts.ts';
import type { Active, Layer } from './overlay-records.ts';
import { ACTIVE_RECORD, isWhole, LAYER_RECORD, loadActives, loadLayers, visibleLayers } from './overlay-records.ts';
import { remembered } from './remembered.ts';
import { IDMAPPED_DIR } from './snapshotter.ts';
import type { CheckDepth, LayerSource, MountSpec, RootfsIdmap, Snapshotter, UsageMethod } from './snapshotter.ts';
import { Trash } from './trash.ts';
import { WritableUsage } from './writable-usage.ts';

const KEY = /^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$/;
/** Whoever owns what nobody in the user namespace does. */
const NOBODY = 65534;

const NOTHING = sumOf([]);

/** What a store of layers may build on. */
export interface StorePlaces {
  readonly root: string;
  readonly log: Logger;
  readonly trash: Trash;
}

export interface LayeredOptions {
  readonly root: string;
  readonly log: Logger;
  /** Of the filesystem that `root` is on. */
  readonly openCounter?: typeof openProjectCounter;
}

/**
 * Layers that a store keeps, a container's rootfs an overlay over them. `<root>/layers/<n>/{fs,layer.json}`, `<root>/active/<key>/{upper,work,snapshot.json}`;
 * what is unfinished lies in tmp/, what is being deleted in trash/, and both are emptied at the start. `root` belongs to one process at a time. invalidArgument:
 * its path can't stand in mount options.
 */
export async function createLayeredSnapshotter(
  { root, log, openCounter }: LayeredOptions,
  openStore: (places: StorePlaces) => Promise<LayerStore>,
): Promise<Snapshotter> {
  if (/[,:\\\s]/.test(root)) throw invalidArgument('root', `${JSON.stringify(root)} has a character that mount options can't hold`);
  for (const dir of ['layers', 'active', 'tmp', 'trash']) await mkdir(join(root, dir), { recursive: true, mode: 0o700 });
  const trash = new Trash(join(root, 'trash'), log);
  // What was unfinished goes the way of what is deleted, and the start waits for neither. The directory stays: on a full disk there is no other (R11).
  for (const name of await readdir(join(root, 'tmp'))) await trash.discard(join(root, 'tmp', name));
  await trash.empty();
  const store = await openStore({ root, log, trash });
  const overlays = await remembered(join(root, 'overlay.probed.json'), async () => ({
    options: await probeOverlay(join(root, 'tmp')),
    idmaps: await probeIdmap(join(root, 'tmp')),
  }));
  const usage = await WritableUsage.open(root, log, openCounter);
  const snapshotter = new LayeredSnapshotter({ root, log, trash, store, usage, ...overlays });
  await snapshotter.load();
  return snapshotter;
}

interface Parts {
  readonly root: string;
  readonly log: Logger;
  readonly trash: Trash;
  readonly store: LayerStore;
  readonly usage: WritableUsage;
  readonly options: OverlayOptions;
  readonly idmaps: boolean;
}

class LayeredSnapshotter implements Snapshotter {
  readonly name: string;
  readonly idmaps: boolean;
  readonly usageMethod: UsageMethod;
  readonly #parts: Parts;
  readonly #layersDir: string;
  readonly #shortDir: ShortDir;
  /** Some wait for their blobs to come. */
  readonly #unpacking = new Slots(availableParallelism() + 2);
  readonly #layers = new Map<Digest, Layer>();
  /** Commits under way or waiting, by chainId. */
  readonly #committing = new Map<Digest, number>();
  /** undefined: its record can't be read; it may only be removed. */
  readonly #active = new Map<string, Active | undefined>();
  /** By chainId, or `active <key>`. */
  readonly #locks = new KeyedLock();
  /** Keys of the snapshots that stand on a layer, by its name. */
  readonly #users = new Map<string, Set<string>>();
  readonly #files = new WeakMap<Layer, LayerFiles>();
  /** By name: damaged ones that somebody still stands on. */
  readonly #dropped = new Map<string, Layer>();
  #nextLayer = 1;

  constructor(parts: Parts) {
    this.name = parts.store.name;
    this.idmaps = parts.idmaps;
    this.usageMethod = parts.usage.method;
    this.#parts = parts;
    this.#layersDir = join(parts.root, 'layers');
    this.#shortDir = new ShortDir(this.#layersDir);
  }

  async load(): Promise<void> {
    const { root, log, store, trash, usage } = this.#parts;
    const layers = await loadLayers(this.#layersDir, log);
    const actives = await loadActives(join(root, 'active'), log);
    const lost = new Set(await store.load(layers.records));
    for (const layer of layers.records) {
      if (lost.has(layer)) continue;
      await this.#count(layer);
      this.#layers.set(layer.chainId, layer);
    }
    for (const active of actives.records) {
      this.#active.set(active.key, active);
      if (!active.readOnly) await usage.adopt(active.key, join(root, 'active', active.key));
    }
    for (const key of actives.broken) this.#active.set(key, undefined);
    for (const { key, parent } of actives.records) if (parent === null || isWhole(this.#layers, parent)) this.#stand(key, parent);
    const names = [...layers.records.map(({ name }) => name), ...layers.broken];
    this.#nextLayer = 1 + Math.max(0, ...names.map(Number).filter(Number.isSafeInteger));
    for (const name of names) if (!this.#users.has(name)) store.unmount(name);
    // A pull brings such a layer back under another number; a container that still stands on it keeps its files.
    for (const name of [...layers.broken, ...[...lost].map((layer) => layer.name)])
      if (!this.#isMounted(name)) await trash.discard(join(this.#layersDir, name), LAYER_RECORD);
  }

  /** Neither changes again. */
  async #count(layer: Layer): Promise<void> {
    const dir = join(this.#layersDir, layer.name);
    this.#files.set(layer, { dir: await usageOf([dir]), record: await usageOf([join(dir, LAYER_RECORD)]) });
  }

  #stand(key: string, parent: Digest | null): void {
    for (const { name } of visibleLayers(this.#layers, parent)) {
      const users = this.#users.get(name) ?? new Set();
      this.#users.set(name, users.add(key));
    }
  }

  #leave(key: string): void {
    for (const [name, users] of this.#users) {
      if (!users.delete(key) || users.size > 0) continue;
      this.#users.delete(name);
      this.#parts.store.unmount(name);
      const dropped = this.#dropped.get(name);
      if (dropped !== undefined) void this.#discard(dropped).catch((error: unknown) => this.#warn(dropped, error));
    }
  }

  #warn({ chainId }: Layer, error: unknown): void {
    this.#parts.log.warn({ chainId, err: messageOf(error) }, 'a damaged layer is not deleted before the next start');
  }

  async commitLayer(op: Op, source: LayerSource, chain: { parent: Digest | undefined; chainId: Digest }): Promise<void> {
    const { parent, chainId } = chain;
    assert(chainIdOf(parent, source.diffId) === chainId, `${chainId} is the chainId of ${source.diffId} on ${parent ?? 'nothing'}`);
    this.#committing.set(chainId, (this.#committing.get(chainId) ?? 0) + 1);
    try {
      using _ = await this.#locks.lock(chainId);
      if (!this.#layers.has(chainId)) await this.#unpackAndCommit(op, source, chain);
    } finally {
      const left = (this.#committing.get(chainId) ?? 1) - 1;
      if (left > 0) this.#committing.set(chainId, left);
      else this.#committing.delete(chainId);
    }
  }

  /** Layers of one image may be unpacked side by side; each is committed after its parent. */
  async #unpackAndCommit(op: Op, source: LayerSource, { parent, chainId }: { parent: Digest | undefined; chainId: Digest }): Promise<void> {
    const { root, trash } = this.#parts;
    if (parent !== undefined && !this.#layers.has(parent) && !this.#committing.has(parent)) throw noParent(chainId, parent);
    const temporary = join(root, 'tmp', randomBytes(8).toString('hex'));
    try {
      await mkdir(temporary, { mode: 0o700 });
      await using unpacked = await this.#unpack(op, source, { dir: temporary, isBottom: parent === undefined });
      // Of what was unpacked while it came nobody knew yet whether it is the blob.
      await source.fetch?.done;
      op.span.stage('commit layer');
      using _ = parent === undefined ? undefined : await this.#locks.lock(parent);
      if (parent !== undefined && !this.#layers.has(parent)) throw noParent(chainId, parent);
      const lowers = visibleLayers(this.#layers, parent ?? null).map(({ name }) => name);
      const layer: Layer = {
        // The data of every file is on disk before the record that says so (R8).
        ...(await unpacked.complete(op, lowers)),
        version: 1,
        chainId,
        parent: parent ?? null,
        name: String(this.#nextLayer++),
        opaqueRoot: unpacked.opaqueRoot,
        tar: unpacked.tar,
      };
      await writeJson(join(temporary, LAYER_RECORD), layer, { sync: true });
      await rename(temporary, join(this.#layersDir, layer.name));
      await syncDir(this.#layersDir);
      await this.#count(layer);
      unpacked.commit(layer);
      this.#layers.set(chainId, layer);
    } catch (error) {
      await trash.discard(temporary, LAYER_RECORD);
      throw error;
    }
  }

  /** While the blob comes, if it can be; when that fails, once more when it is there: it may have been fetched anew, and tells more when it is whole. */
  async #unpack(op: Op, source: LayerSource, into: { dir: string; isBottom: boolean }): Promise<Unpacked> {
    const unpack = async (from: LayerSource): Promise<Unpacked> => {
      // Whoever waits for a download to begin is in nobody's way.
      await from.fetch?.begun;
      using _ = await this.#unpacking.take();
      op.span.stage('unpack layer');
      return await this.#parts.store.unpack(op, from, into);
    };
    try {
      return await unpack(source);
    } catch (error) {
      if (source.fetch === undefined || op.signal.aborted || !['dataLoss', 'unavailable'].includes(kindOf(error))) throw error;
      await source.fetch.done;
      op.log.debug({ diffId: source.diffId, err: messageOf(error) }, 'a layer is unpacked again: it could not be while its blob came');
      await this.#parts.trash.discard(into.dir);
      await mkdir(into.dir, { mode: 0o700 });
      return await unpack({ ...source, fetch: undefined });
    }
  }

  async hasLayer(chainId: Digest): Promise<boolean> {
    return isWhole(this.#layers, chainId);
  }

  async isIntact(op: Op, chainId: Digest, depth: CheckDepth): Promise<boolean> {
    const layer = this.#layers.get(chainId);
    if (layer === undefined) return true;
    const isIntact = await this.#parts.store.isIntact(op, layer, depth);
    // It may have been removed under the one who looked.
    return isIntact || this.#layers.get(chainId) !== layer;
  }

  async dropLayer(_op: Op, chainId: Digest): Promise<void> {
    using _ = await this.#locks.lock(chainId);
    const layer = this.#layers.get(chainId);
    if (layer === undefined) return;
    this.#layers.delete(chainId);
    if (!this.#users.has(layer.name)) return await this.#discard(layer);
    this.#dropped.set(layer.name, layer);
    // What has no record is no layer after the next start.
    await rm(join(this.#layersDir, layer.name, LAYER_RECORD), { force: true });
    await this.#count(layer);
  }

  async #discard(layer: Layer): Promise<void> {
    const { store, trash } = this.#parts;
    this.#dropped.delete(layer.name);
    store.unmount(layer.name);
    const { deleted } = await trash.discard(join(this.#layersDir, layer.name), LAYER_RECORD);
    await Promise.all([deleted, store.forget(layer)]);
  }

  async prepare(op: Op, key: string, parent: Digest | undefined, idmap?: RootfsIdmap): Promise<readonly MountSpec[]> {
    return this.#open(op, { version: 1, key, parent: parent ?? null, readOnly: false }, idmap);
  }

  async view(op: Op, key: string, parent: Digest | undefined, idmap?: RootfsIdmap): Promise<readonly MountSpec[]> {
    return this.#open(op, { version: 1, key, parent: parent ?? null, readOnly: true }, idmap);
  }

  async #open(_op: Op, wanted: Active, idmap?: RootfsIdmap): Promise<readonly MountSpec[]> {
    const { key } = wanted;
    if (!KEY.test(key)) throw invalidArgument('snapshot key', JSON.stringify(key.slice(0, 200)));
    using _ = await this.#locks.lock(`active ${key}`);
    const existing = this.#active.get(key);
    if (this.#active.has(key)) {
      if (existing?.parent !== wanted.parent || existing.readOnly !== wanted.readOnly)
        throw new ClassifiedError('failedPrecondition', `prepare snapshot ${key}: it exists and is another`);
      // A volatile overlay leaves this mark behind, and refuses to be mounted again.
      await rm(join(this.#parts.root, 'active', key, 'work', 'work', 'incompat'), { recursive: true, force: true });
    } else await this.#create(wanted, idmap);
    return await this.#mountsOf(wanted, idmap?.userns);
  }

  async #create(active: Active, idmap: RootfsIdmap | undefined): Promise<void> {
    const { root, usage } = this.#parts;
    const layers = visibleLayers(this.#layers, active.parent);
    // From here on nobody can remove the layers.
    this.#active.set(active.key, active);
    this.#stand(active.key, active.parent);
    const temporary = join(root, 'tmp', randomBytes(8).toString('hex'));
    try {
      for (const layer of layers) this.#parts.store.mount(layer);
      await mkdir(temporary, { mode: 0o700 });
      if (!active.readOnly) await usage.begin(active.key, temporary);
      await allDone([
        this.#makeUpper(join(temporary, 'upper'), layers[0], idmap),
        // Its whole directory comes by one rename: the record needs none of its own.
        writeFile(join(temporary, ACTIVE_RECORD), JSON.stringify(active), { mode: 0o600 }),
        ...(active.readOnly ? [] : [mkdir(join(temporary, 'work'), { mode: 0o700 })]),
      ]);
      await rename(temporary, join(root, 'active', active.key));
    } catch (error) {
      this.#active.delete(active.key);
      this.#leave(active.key);
      const discarded = this.#parts.trash.discard(temporary, ACTIVE_RECORD);
      usage.forget(
        active.key,
        discarded.then(({ deleted }) => deleted),
      );
      await discarded;
      throw error;
    }
  }

  /** The merged root looks like the topmost directory, which is ours. */
  async #makeUpper(upper: string, layer: Layer | undefined, idmap: RootfsIdmap | undefined): Promise<void> {
    const [top] = await allDone([
      layer ? stat(join(this.#layersDir, layer.name, 'fs')) : Promise.resolve(undefined),
      mkdir(upper, { mode: 0o700 }),
    ]);
    const [uid, gid] = [top?.uid ?? 0, top?.gid ?? 0];
    const owner = idmap ? { uid: idmap.uid(uid) ?? NOBODY, gid: idmap.gid(gid) ?? NOBODY } : { uid, gid };
    if (owner.uid !== 0 || owner.gid !== 0) await chown(upper, owner.uid, owner.gid);
    await chmod(upper, (top?.mode ?? 0o755) & 0o7777);
  }

  async #mountsOf({ key, parent, readOnly }: Active, userns?: string): Promise<readonly MountSpec[]> {
    const visible = visibleLayers(this.#layers, parent);
    this.#stand(key, parent);
    // Again after a boot, or when somebody took the mount away.
    for (const layer of visible) this.#parts.store.mount(layer);
    const layers = visible.map(({ name }) => name);
    const dir = join(this.#parts.root, 'active', key);
    const [top] = layers;
    const { mountedAs } = this.#parts.store;
    if (top === undefined) return bindMounts(join(dir, 'upper'), readOnly);
    // One view of all layers, however many there are (P20); where each is a mount, of all that are mounted.
    const idmapped = userns === undefined ? undefined : { dir: this.#layersDir, userns, recursive: mountedAs !== undefined };
    const shared = idmapped
      ? { layers, layersDir: IDMAPPED_DIR, shortDir: { path: IDMAPPED_DIR } }
      : { layers, layersDir: this.#layersDir, shortDir: this.#shortDir };
    const dirs = layers.map((name) => join(shared.layersDir, name, 'fs'));
    const how = { ...(idmapped && { idmapped }), ...(mountedAs !== undefined && { mounted: { dirs, as: mountedAs } }) };
    const through = (specs: readonly MountSpec[]): MountSpec[] => specs.map((spec) => (spec.source === '' ? spec : { ...spec, ...how }));
    if (readOnly && layers.length === 1) return through(bindMounts(join(shared.layersDir, top, 'fs'), true));
    if (readOnly) return through([overlayMount(shared)]);
    const upper = { upperDir: join(dir, 'upper'), workDir: join(dir, 'work'), options: this.#parts.options };
    return through([overlayMount({ ...shared, upper })]);
  }

  upperDir(key: string): string | undefined {
    return this.#active.get(key)?.readOnly === false ? join(this.#parts.root, 'active', key, 'upper') : undefined;
  }

  async remove(_op: Op, key: string): Promise<void> {
    if (!KEY.test(key)) return;
    using _ = await this.#locks.lock(`active ${key}`);
    // Not waited for: a container's files may be many.
    const { deleted } = await this.#parts.trash.discard(join(this.#parts.root, 'active', key), ACTIVE_RECORD);
    this.#active.delete(key);
    this.#parts.usage.forget(key, deleted);
    this.#leave(key);
  }

  /** The space is free when it resolves: what asked for it measures that next. */
  async removeLayer(_op: Op, chainId: Digest): Promise<void> {
    using _ = await this.#locks.lock(chainId);
    const layer = this.#layers.get(chainId);
    if (layer === undefined) return;
    const user = this.#userOf(layer);
    if (user !== undefined) throw new ClassifiedError('failedPrecondition', `remove layer ${chainId}: ${user} stands on it`);
    this.#layers.delete(chainId);
    try {
      await this.#discard(layer);
    } catch (error) {
      this.#layers.set(chainId, layer);
      throw error;
    }
  }

  #userOf({ chainId, name }: Layer): string | undefined {
    for (const layer of this.#layers.values()) if (layer.parent === chainId) return `layer ${layer.chainId}`;
    for (const [key, active] of this.#active) {
      if (active?.parent === chainId) return `snapshot ${key}`;
      // Nobody knows what it stands on: then the kernel is asked.
      if (active === undefined && this.#isMounted(name)) return 'a mount';
    }
    return undefined;
  }

  #isMounted(name: string): boolean {
    return readFileSync('/proc/self/mountinfo', 'utf8').includes(`${join(this.#layersDir, name)}/`);
  }

  async keys(): Promise<string[]> {
    return [...this.#active.keys()];
  }

  async layers(): Promise<Digest[]> {
    return [...this.#layers.keys()];
  }

  async usage(key: string): Promise<DiskUsage> {
    if (!this.#active.has(key)) throw notFound('snapshot', key);
    const { root, usage } = this.#parts;
    return this.upperDir(key) === undefined ? NOTHING : usage.of(key, join(root, 'active', key));
  }

  /** From what is known of each; those that are damaged but not gone yet are among them. */
  async layersUsage(): Promise<DiskUsage> {
    const { store } = this.#parts;
    const around = [await usageOf([this.#layersDir]), await store.shared()];
    const layers = [...this.#layers.values(), ...this.#dropped.values()];
    return sumOf([...around, ...layers.map((layer) => store.usage(layer, this.#files.get(layer) ?? { dir: NOTHING, record: NOTHING }))]);
  }

  root(): string {
    return this.#parts.root;
  }
}

const noParent = (chainId: Digest, parent: Digest): ClassifiedError =>
  new ClassifiedError('failedPrecondition', `commit layer ${chainId}: its parent ${parent} is not committed`);
