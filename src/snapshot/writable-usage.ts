import { createHash, randomBytes } from 'node:crypto';
import { join } from 'node:path';
import { ClassifiedError, messageOf } from '../base/errors.ts';
import type { Logger } from '../base/log.ts';
import { SingleFlight } from '../base/single-flight.ts';
import { Slots } from '../base/slots.ts';
import { readJson, writeJson } from '../os/atomic-file.ts';
import type { DiskUsage } from '../os/disk-usage.ts';
import type { ProjectCounter } from '../os/project-counter.ts';
import { openProjectCounter } from '../os/project-counter.ts';
import { UsageCache } from './disk.ts';
import type { UsageMethod } from './snapshotter.ts';

/** Below are ids that people and programs give away from their first on: kubelet's volumes begin at 1048577. A signed int holds what is above. */
const FIRST_ID = 0x4000_0000;
const ID_MASK = 0x3fff_ffff;
/** Many more than there can be containers; somebody else would have to have them all. */
const MAX_SLOTS = 65_536;

/**
 * What lies below `active/<key>`. Where the filesystem counts projects each key is one, and its directory says which: whoever reads it after a restart knows,
 * an id is free when the kernel counts no inode for it, and nothing is kept of one. Everything else is walked.
 */
export class WritableUsage {
  readonly #counter: ProjectCounter | undefined;
  readonly #log: Logger;
  readonly method: UsageMethod;
  readonly #secret: string;
  /** By key. */
  readonly #ids = new Map<string, number>();
  readonly #taken = new Set<number>();
  /** Ids in the order in which they are tried. */
  readonly #slots: number[] = [];
  readonly #walked = new UsageCache();
  readonly #counting = new SingleFlight<DiskUsage>();
  readonly #slot = new Slots(1);
  #warned = false;

  private constructor(parts: { counter: ProjectCounter | undefined; log: Logger; method: UsageMethod; secret: string }) {
    this.#counter = parts.counter;
    this.#log = parts.log;
    this.method = parts.method;
    this.#secret = parts.secret;
  }

  /** Of a snapshotter's root. */
  static async open(root: string, log: Logger, openCounter = openProjectCounter): Promise<WritableUsage> {
    try {
      const counter = await openCounter(root);
      log.info('what containers write is counted by project quotas');
      return new WritableUsage({ counter, log, method: { by: 'project quota' }, secret: await secretOf(join(root, 'projects.json')) });
    } catch (error) {
      const why = messageOf(error);
      log.info({ why }, 'what containers write is counted by walking');
      return new WritableUsage({ counter: undefined, log, method: { by: 'walk', why }, secret: '' });
    }
  }

  /**
   * `dir` is empty, and will be the snapshot's. Where it can't have an id of its own it has none, and is walked. Nothing of it exists without the id: the
   * overlay moves files between its upper and its work directory, which must not be of two projects.
   */
  async begin(key: string, dir: string): Promise<void> {
    if (this.#counter === undefined) return;
    let id: number | undefined;
    try {
      id = await this.#free(this.#counter);
      await this.#counter.assign(dir, id);
      this.#ids.set(key, id);
    } catch (error) {
      if (id !== undefined) this.#taken.delete(id);
      if (this.#warned) return;
      this.#warned = true;
      this.#log.warn(
        { key, err: messageOf(error) },
        'a snapshot has no project of its own: it is walked, and so are others that fare like it',
      );
    }
  }

  async #free(counter: ProjectCounter): Promise<number> {
    for (let slot = 0; slot < MAX_SLOTS; slot++) {
      const id = (this.#slots[slot] ??= this.#idOf(slot));
      if (this.#taken.has(id)) continue;
      this.#taken.add(id);
      try {
        if ((await counter.usage(id)).inodes === 0) return id;
      } catch (error) {
        this.#taken.delete(id);
        throw error;
      }
      // A removed snapshot's that is still being deleted, or somebody else's.
      this.#taken.delete(id);
    }
    throw new ClassifiedError('resourceExhausted', `${MAX_SLOTS} project ids are taken`);
  }

  /**
   * The same few every time, for a filesystem may keep something of each that it has ever seen. But nobody can guess them: a process of a container can give
   * its files to any project that it knows the id of, its own among them.
   */
  #idOf(slot: number): number {
    return FIRST_ID + (createHash('sha256').update(`${this.#secret} ${slot}`).digest().readUInt32LE(0) & ID_MASK);
  }

  /** The snapshot is there since an earlier time. */
  async adopt(key: string, dir: string): Promise<void> {
    // Out of reach of the container: its root is a directory in it.
    const id = await this.#counter?.idOf(dir).catch(() => undefined);
    if (id === undefined || id < FIRST_ID || this.#taken.has(id)) return;
    this.#taken.add(id);
    this.#ids.set(key, id);
  }

  async of(key: string, dir: string): Promise<DiskUsage> {
    const id = this.#ids.get(key);
    if (id !== undefined && this.#counter !== undefined) {
      try {
        return await this.#counted(key, id, this.#counter);
      } catch (error) {
        // Quotas may have been turned off meanwhile.
        this.#log.debug({ key, dir, err: messageOf(error) }, 'a project is not counted');
      }
    }
    return this.#walked.of(key, join(dir, 'upper'));
  }

  /** A disk that stands still has one thread of libuv's pool in its hold then, however often and for however many somebody asks. */
  #counted(key: string, id: number, counter: ProjectCounter): Promise<DiskUsage> {
    return this.#counting.run(key, async () => {
      using _ = await this.#slot.take();
      return await counter.usage(id);
    });
  }

  /** The snapshot is gone, or does not come; its id is not looked at before `deleted` settles: there may be hundreds. */
  forget(key: string, deleted: Promise<void>): void {
    this.#walked.forget(key);
    const id = this.#ids.get(key);
    if (id === undefined) return;
    this.#ids.delete(key);
    const free = (): boolean => this.#taken.delete(id);
    void deleted.then(free, free);
  }
}

/** Written once. On a disk too full for that ids are other ones after a restart, which does no harm. */
async function secretOf(path: string): Promise<string> {
  const known = (await readJson(path).catch(() => undefined)) as { readonly secret?: unknown } | undefined;
  if (typeof known?.secret === 'string' && known.secret !== '') return known.secret;
  const secret = randomBytes(16).toString('hex');
  await writeJson(path, { secret }).catch(() => undefined);
  return secret;
}
