import { readFile, rm } from 'node:fs/promises';
import { errnoOf } from '../base/errors.ts';
import { writeFileAtomic } from './atomic-file.ts';

/** `path` names the boot in which it was set and is gone after a clean end: one of another boot says that the machine went down in between. */
export class CutMark {
  readonly #path: string;
  readonly #bootId: string;
  #isPending = false;

  constructor(path: string, bootId: string) {
    this.#path = path;
    this.#bootId = bootId;
  }

  /** It stays so, for the next start as well, until `set`. */
  async wasCut(): Promise<boolean> {
    try {
      this.#isPending = (await readFile(this.#path, 'utf8')) !== this.#bootId;
    } catch (error) {
      if (errnoOf(error) !== 'ENOENT') throw error;
    }
    return this.#isPending;
  }

  /** Nothing is left to be done about the cut. */
  async set(): Promise<void> {
    await writeFileAtomic(this.#path, this.#bootId, { sync: true });
    this.#isPending = false;
  }

  async clear(): Promise<void> {
    if (!this.#isPending) await rm(this.#path, { force: true });
  }
}
