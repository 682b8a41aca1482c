import { messageOf } from './errors.ts';
import type { Logger } from './log.ts';

/** Background work that nobody awaits: a failure is logged by name, and `drain` waits for all of it at shutdown. */
export class TaskSet {
  readonly #log: Logger;
  readonly #running = new Set<Promise<void>>();

  constructor(log: Logger) {
    this.#log = log;
  }

  start(name: string, work: () => Promise<unknown>): void {
    const promise = (async () => {
      try {
        await work();
      } catch (error) {
        this.#log.error({ task: name, err: messageOf(error) }, 'background task failed');
      }
    })().finally(() => this.#running.delete(promise));
    this.#running.add(promise);
  }

  async drain(): Promise<void> {
    while (this.#running.size > 0) await Promise.all(this.#running);
  }
}
