import { readFile, rm } from 'node:fs/promises';
import { errnoOf } from '../base/errors.ts';
import { writeFileAtomic } from './atomic-file.ts';

/** `path` names the boot in which it was written and is removed at a clean end: one of another boot says that the machine went down in between. */
export class CutMark {
  readonly #path: string;

  constructor(path: string) {
    this.#path = path;
  }

  /** Returns whether that happened. A disk too full for the mark is no reason not to start (R11): the error is returned. */
  async set(bootId: string): Promise<{ wasCut: boolean; error?: unknown }> {
    let wasCut = false;
    try {
      wasCut = (await readFile(this.#path, 'utf8')) !== bootId;
    } catch (error) {
      if (errnoOf(error) !== 'ENOENT') return { wasCut, error };
    }
    try {
      await writeFileAtomic(this.#path, bootId, { sync: true });
      return { wasCut };
    } catch (error) {
      return { wasCut, error };
    }
  }

  async clear(): Promise<void> {
    await rm(this.#path, { force: true });
  }
}
