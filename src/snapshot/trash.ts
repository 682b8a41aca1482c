import { randomBytes } from 'node:crypto';
import { readdir, rename, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { ClassifiedError, errnoOf, isDiskFull, messageOf } from '../base/errors.ts';
import type { Logger } from '../base/log.ts';
import { newOp } from '../base/op.ts';
import { run } from '../os/spawn.ts';

const REMOVE_TIMEOUT_MS = 600_000;

/**
 * Where directories go to be deleted: gone under their name at once, their files by a process that manages any depth in bounded memory (R37). What a crash
 * or a file that can't be deleted leaves here is tried again at the next start.
 */
export class Trash {
  readonly #dir: string;
  readonly #log: Logger;
  /** One deletion at a time: they compete with the containers for the disk. */
  #tail: Promise<void> = Promise.resolve();

  constructor(dir: string, log: Logger) {
    this.#dir = dir;
    this.#log = log;
  }

  /**
   * Resolves when `path` is free (missing is ok); `deleted` when the space is. On a disk so full that nothing can be renamed, `record`, the file that makes the
   * directory what it is, goes first and the rest in its place (R11).
   */
  async discard(path: string, record?: string): Promise<{ deleted: Promise<void> }> {
    const name = join(this.#dir, randomBytes(8).toString('hex'));
    try {
      await rename(path, name);
    } catch (error) {
      const code = errnoOf(error);
      if (code === 'ENOENT') return { deleted: Promise.resolve() };
      if (!isDiskFull(error)) throw error;
      if (record !== undefined) await rm(join(path, record), { force: true });
      await removeTree(path);
      return { deleted: Promise.resolve() };
    }
    return { deleted: this.#enqueue(name) };
  }

  /** Deletes what is left of an earlier time, in the background. */
  async empty(): Promise<void> {
    for (const name of await readdir(this.#dir)) void this.#enqueue(join(this.#dir, name));
  }

  #enqueue(path: string): Promise<void> {
    this.#tail = this.#tail.then(async () => {
      try {
        await removeTree(path);
      } catch (error) {
        this.#log.warn({ path, err: messageOf(error) }, 'a discarded directory could not be deleted');
      }
    });
    return this.#tail;
  }
}

async function removeTree(path: string): Promise<void> {
  const op = newOp('remove tree', { timeoutMs: REMOVE_TIMEOUT_MS });
  const { exitCode, stderr } = await run(op, { argv: ['rm', '-rf', '--one-file-system', '--', path] });
  if (exitCode !== 0) throw new ClassifiedError('internal', `remove ${path}: ${stderr.toString('utf8').trim().slice(0, 500)}`);
}
