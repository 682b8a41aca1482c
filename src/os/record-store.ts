import { open, readdir, rename, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { messageOf } from '../base/errors.ts';
import { isId } from '../base/ids.ts';
import type { Logger } from '../base/log.ts';
import { readJson, writeJson } from './atomic-file.ts';

const SYNC_EVERY_MS = 500;

/**
 * One JSON file per record, all of them in memory: readers never wait, records are replaced and never changed in place.
 * A write is renamed into place before `put` resolves (survives a killed daemon); a background batch fsyncs it within a second
 * (survives most power cuts) unless `put` was asked to wait for that.
 */
export class RecordStore<T extends { readonly id: string }> {
  readonly #dir: string;
  readonly #log: Logger;
  readonly #records = new Map<string, T>();
  readonly #writes = new Map<string, Promise<void>>();
  readonly #unsynced = new Set<string>();
  #timer: NodeJS.Timeout | undefined;

  constructor(dir: string, log: Logger) {
    this.#dir = dir;
    this.#log = log;
  }

  /**
   * Loads every record in isolation (R6): `parse` throws on what it can't accept. A broken file is set aside under its name plus `.broken`
   * and reported by id, so that its owner can list it as unknown or take it down; one whose name is no id is nobody's, and only set aside.
   */
  async load(parse: (value: unknown) => T): Promise<Array<{ id: string; error: unknown }>> {
    const broken: Array<{ id: string; error: unknown }> = [];
    for (const file of await readdir(this.#dir)) {
      // A writer that was killed before its rename.
      if (file.endsWith('.tmp')) await rm(join(this.#dir, file), { force: true });
      if (!file.endsWith('.json')) continue;
      const id = file.slice(0, -'.json'.length);
      try {
        const record = parse(await readJson(join(this.#dir, file)));
        if (record.id !== id) throw new Error(`file names ${id}, its record ${record.id}`);
        this.#records.set(id, record);
      } catch (error) {
        this.#log.error({ file, err: messageOf(error) }, 'a record can not be read; it is set aside');
        if (isId(id)) broken.push({ id, error });
        await rename(join(this.#dir, file), join(this.#dir, `${id}.broken`)).catch((failure: unknown) =>
          this.#log.error({ file, err: messageOf(failure) }, 'a broken record stays where it is'),
        );
      }
    }
    return broken;
  }

  get(id: string): T | undefined {
    return this.#records.get(id);
  }

  values(): T[] {
    return [...this.#records.values()];
  }

  /** As `put`, where memory alone will do for now: a write that fails (a full disk) is logged, and what the file says is found out again after a restart. */
  async note(record: T): Promise<void> {
    await this.put(record).catch((error: unknown) =>
      this.#log.error({ id: record.id, err: messageOf(error) }, 'a record can not be written'),
    );
  }

  /** In memory at once, in its file when the promise resolves. */
  put(record: T): Promise<void> {
    this.#records.set(record.id, record);
    return this.#enqueue(record.id, async () => {
      const current = this.#records.get(record.id);
      if (current === undefined) return;
      await writeJson(this.#path(record.id), current, { sync: false });
      this.#unsynced.add(record.id);
      this.#timer ??= setTimeout(() => void this.#syncBatch(), SYNC_EVERY_MS).unref();
    });
  }

  /** Missing is ok; needs no free space (R11). */
  delete(id: string): Promise<void> {
    this.#records.delete(id);
    return this.#enqueue(id, async () => {
      if (this.#records.has(id)) return;
      this.#unsynced.delete(id);
      await rm(this.#path(id), { force: true });
      await rm(join(this.#dir, `${id}.broken`), { force: true });
    });
  }

  /** Waits for all writes and makes them durable. */
  async close(): Promise<void> {
    await Promise.allSettled(this.#writes.values());
    clearTimeout(this.#timer);
    await this.#syncBatch();
  }

  #path(id: string): string {
    return join(this.#dir, `${id}.json`);
  }

  #enqueue(id: string, work: () => Promise<void>): Promise<void> {
    const before = this.#writes.get(id) ?? Promise.resolve();
    const write = before.then(work, work);
    this.#writes.set(id, write);
    const done = (): void => {
      if (this.#writes.get(id) === write) this.#writes.delete(id);
    };
    write.then(done, done);
    return write;
  }

  async #syncBatch(): Promise<void> {
    this.#timer = undefined;
    const ids = [...this.#unsynced];
    this.#unsynced.clear();
    try {
      for (const path of [...ids.map((id) => this.#path(id)), this.#dir]) {
        const file = await open(path, 'r').catch(() => undefined);
        await file?.datasync().finally(() => file.close());
      }
    } catch (error) {
      this.#log.warn({ err: messageOf(error) }, 'records could not be made durable');
    }
  }
}
