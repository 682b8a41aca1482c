import { mkdir, readdir, rename, rm } from 'node:fs/promises';
import { join } from 'node:path';
import type { Digest } from '../base/digest.ts';
import { hexOf, isDigest } from '../base/digest.ts';
import { invalidArgument, messageOf } from '../base/errors.ts';
import { KeyedLock } from '../base/keyed-lock.ts';
import type { Logger } from '../base/log.ts';
import { readJson, writeJson } from '../os/atomic-file.ts';
import type { DiskUsage } from '../os/disk-usage.ts';
import { flatUsage } from '../os/disk-usage.ts';
import type { Image, ImageConfig } from './image.ts';
import { nameOf, parseReference } from './reference.ts';

/** What is on disk of an image: written after all its data, with fsync (R8). */
export interface ImageRecord {
  readonly version: 1;
  readonly id: Digest;
  readonly repoTags: readonly string[];
  readonly repoDigests: readonly string[];
  /** Compressed layers and config, as pulled. */
  readonly sizeBytes: number;
  readonly topLayer: Digest | null;
  readonly chainIds: readonly Digest[];
  /** Everything in the content store that this image keeps there: manifests, config, layers. */
  readonly blobs: readonly Digest[];
  /** Those of `blobs` that are layers; records of earlier versions don't tell. */
  readonly layers?: ReadonlyArray<{ readonly digest: Digest; readonly sizeBytes: number }>;
  readonly config: ImageConfig;
}

/** What stays of an image's blobs when those of its layers don't. */
export function documentsOf({ blobs, layers = [] }: ImageRecord): Digest[] {
  const unpacked = new Set(layers.map(({ digest }) => digest));
  return blobs.filter((digest) => !unpacked.has(digest));
}

const SHORT_ID = /^[0-9a-f]{6,64}$/;

/** Image records, `<dir>/<hex>.json`, all in memory. A name belongs to one image: it moves with the pull that gives it to another. */
export class ImageStore {
  readonly #dir: string;
  readonly #isPinned: (image: ImageRecord) => boolean;
  readonly #records = new Map<Digest, ImageRecord>();
  /** Images that have lost a part, and since when that is known. What is left of them waits for a pull. */
  readonly #hidden = new Map<Digest, number>();
  /** Held by writers: what one of them merges must not change under it. */
  readonly #writing = new KeyedLock();

  /** `pinned`: references as people write them, a trailing * matches the rest. */
  constructor(dir: string, pinned: readonly string[]) {
    this.#dir = dir;
    const patterns = pinned.map((text) => (text.endsWith('*') ? text : nameOf(parseReference(text))));
    this.#isPinned = (record) =>
      [...record.repoTags, ...record.repoDigests].some((name) =>
        patterns.some((pattern) => (pattern.endsWith('*') ? name.startsWith(pattern.slice(0, -1)) : name === pattern)),
      );
  }

  /** Each record by itself: a broken one is set aside and its image pulled again when it is wanted. */
  async load(log: Logger): Promise<void> {
    await mkdir(this.#dir, { recursive: true, mode: 0o700 });
    for (const file of await readdir(this.#dir)) {
      // A writer that was killed before its rename.
      if (file.endsWith('.tmp')) await rm(join(this.#dir, file), { force: true });
      if (!file.endsWith('.json')) continue;
      const path = join(this.#dir, file);
      try {
        const record = (await readJson(path)) as ImageRecord;
        if (record.version !== 1 || !isDigest(record.id) || file !== `${hexOf(record.id)}.json`)
          throw new Error('not an image record of this version');
        this.#records.set(record.id, record);
      } catch (error) {
        log.error({ file, err: messageOf(error) }, 'an image record can not be read; it is set aside');
        await rename(path, `${path}.broken`);
      }
    }
  }

  /** With the hidden ones. */
  records(): ImageRecord[] {
    return [...this.#records.values()];
  }

  list(): Image[] {
    return this.records()
      .filter(({ id }) => !this.isHidden(id))
      .map((record) => this.#view(record));
  }

  isHidden(id: Digest): boolean {
    return this.#hidden.has(id);
  }

  /** Until the next `put`: neither found nor listed. */
  hide(id: Digest): void {
    this.#hidden.set(id, Date.now());
  }

  /** Gives up images that nobody has pulled again. */
  async forgetHidden(olderThanMs: number): Promise<void> {
    for (const [id, sinceMs] of this.#hidden) if (Date.now() - sinceMs >= olderThanMs) await this.delete(id);
  }

  #view({ id, repoTags, repoDigests, sizeBytes, topLayer, config, ...rest }: ImageRecord): Image {
    const pinned = this.#isPinned({ id, repoTags, repoDigests, sizeBytes, topLayer, config, ...rest });
    return { id, repoTags, repoDigests, sizeBytes, pinned, topLayer: topLayer ?? undefined, config };
  }

  /** By id, unique beginning of an id, tag or digest reference. undefined: not here. */
  find(ref: string): Image | undefined {
    const image = this.findAny(ref);
    return image && !this.isHidden(image.id) ? image : undefined;
  }

  /** Hidden or not. */
  findAny(ref: string): Image | undefined {
    const record = this.#byId(ref) ?? this.#byName(ref);
    return record && this.#view(record);
  }

  #byId(ref: string): ImageRecord | undefined {
    if (isDigest(ref)) return this.#records.get(ref);
    if (!SHORT_ID.test(ref)) return undefined;
    const matches = this.records().filter(({ id }) => hexOf(id).startsWith(ref));
    return matches.length === 1 ? matches[0] : undefined;
  }

  #byName(ref: string): ImageRecord | undefined {
    if (ref === '') throw invalidArgument('image.image', 'must not be empty');
    const name = nameOf(parseReference(ref));
    return this.records().find(({ repoTags, repoDigests }) => repoTags.includes(name) || repoDigests.includes(name));
  }

  /** Adds an image or more names to it, and takes its tags from whichever image had them. */
  async put(record: ImageRecord): Promise<void> {
    using _ = await this.#writing.lock('records');
    const known = this.#records.get(record.id);
    const union = (a: readonly string[] = [], b: readonly string[]): string[] => [...new Set([...a, ...b])].sort();
    const merged: ImageRecord = {
      ...record,
      repoTags: union(known?.repoTags, record.repoTags),
      repoDigests: union(known?.repoDigests, record.repoDigests),
      blobs: union(known?.blobs, record.blobs).filter(isDigest),
      layers: [...new Map([...(known?.layers ?? []), ...(record.layers ?? [])].map((layer) => [layer.digest, layer])).values()],
    };
    await this.#write(merged);
    this.#hidden.delete(record.id);
    for (const other of this.records()) {
      if (other.id === record.id || !other.repoTags.some((tag) => merged.repoTags.includes(tag))) continue;
      await this.#write({ ...other, repoTags: other.repoTags.filter((tag) => !merged.repoTags.includes(tag)) });
    }
  }

  async #write(record: ImageRecord): Promise<void> {
    await writeJson(join(this.#dir, `${hexOf(record.id)}.json`), record, { sync: true });
    this.#records.set(record.id, record);
  }

  /** What the records take on disk. */
  usage(): Promise<DiskUsage> {
    return flatUsage(this.#dir);
  }

  async delete(id: Digest): Promise<void> {
    using _ = await this.#writing.lock('records');
    this.#records.delete(id);
    this.#hidden.delete(id);
    await rm(join(this.#dir, `${hexOf(id)}.json`), { force: true });
  }
}
