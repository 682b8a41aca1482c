import type { Op } from './op.ts';
import { detached, orOver, throwIfOver } from './op.ts';

const MAX_WORK_MS = 600_000;

interface Running {
  readonly op: Op;
  readonly done: Promise<void>;
}

/**
 * Work that outlives its calls (R1, R3): it has an op of its own, so a client that goes away ends nothing half-way. Calls with the same key join it, and each
 * waits for it no longer than its own op lasts. Unlike `Operations` it keeps no result: who comes later begins it anew.
 */
export class LastingWork {
  readonly #running = new Map<string, Running>();

  /** `timeoutMs`: of the work, when this call begins it. */
  async run(op: Op, key: string, work: (own: Op) => Promise<void>, timeoutMs = MAX_WORK_MS): Promise<void> {
    throwIfOver(op);
    const running = this.#running.get(key) ?? this.#begin(key, detached(op, timeoutMs), work);
    await orOver({ ...op, span: running.op.span }, running.done);
  }

  /** Settles as the work does, if there is any. */
  get(key: string): Promise<void> | undefined {
    return this.#running.get(key)?.done;
  }

  get size(): number {
    return this.#running.size;
  }

  #begin(key: string, op: Op, work: (own: Op) => Promise<void>): Running {
    // In the map before the first step of it: that may ask for it.
    const begin = Promise.withResolvers<void>();
    const done = begin.promise.then(() => work(op)).finally(() => this.#running.delete(key));
    const running = { op, done };
    this.#running.set(key, running);
    begin.resolve();
    return running;
  }
}
