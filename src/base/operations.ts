import { messageOf } from './errors.ts';
import type { Op } from './op.ts';
import { detached, orOver } from './op.ts';

const PATIENCE_MS = 120_000;
const MAX_WORK_MS = 600_000;

interface Entry<T> {
  readonly op: Op;
  readonly result: Promise<T>;
  /** It has a result, or has failed. */
  isDone: boolean;
  waiters: number;
  patienceMs: number;
  timer: NodeJS.Timeout | undefined;
  collected: Promise<void> | undefined;
  /** Being torn down; never rejects. */
  ending: Promise<void> | undefined;
}

export interface Work<T> {
  /** Does the work under an op of its own: a caller that goes away does not cancel it. */
  readonly start: (op: Op) => Promise<T>;
  /** Runs once, when a call is there to take the result: the moment the object becomes visible. When it fails, the result is abandoned. */
  readonly collect: (result: T) => Promise<void>;
  /** Nobody came within twice the clients' patience. A call with the key waits for its end and begins anew. */
  readonly abandon: (op: Op, result: T) => Promise<void>;
}

/**
 * Operations that outlive their calls (R1). A call with a key in flight joins it; a result that its call did not wait for
 * is kept for a retry; one that nobody collects is torn down. A failure is told to those who wait and then forgotten.
 */
export class Operations<T> {
  readonly #entries = new Map<string, Entry<T>>();
  readonly #minPatienceMs: number;

  /** `minPatienceMs`: what a client without a deadline is taken to wait for. */
  constructor(options: { minPatienceMs?: number } = {}) {
    this.#minPatienceMs = options.minPatienceMs ?? PATIENCE_MS;
  }

  async run(op: Op, key: string, work: Work<T>): Promise<T> {
    let entry = this.#entries.get(key);
    for (; entry?.ending; entry = this.#entries.get(key)) await orOver({ ...op, span: entry.op.span }, entry.ending);
    entry ??= this.#begin(op, key, work);
    entry.waiters++;
    clearTimeout(entry.timer);
    if (Number.isFinite(op.deadlineMs)) entry.patienceMs = Math.max(entry.patienceMs, op.deadlineMs - Date.now());
    try {
      const result = await orOver({ ...op, span: entry.op.span }, entry.result);
      entry.collected ??= work.collect(result);
      try {
        await entry.collected;
      } catch (error) {
        void this.#abandon(key, entry, work);
        throw error;
      }
      this.#forget(key, entry);
      return result;
    } finally {
      entry.waiters--;
      this.#keepForRetry(key, entry, work);
    }
  }

  /** What runs and where it stands, for status and for people. */
  list(): Array<{ key: string; stage: string; ageMs: number }> {
    return [...this.#entries].map(([key, { op }]) => ({ key, stage: op.span.current.stage, ageMs: op.span.ageMs }));
  }

  /** How many have not come to their result yet. */
  get working(): number {
    return [...this.#entries.values()].filter(({ isDone }) => !isDone).length;
  }

  #begin(op: Op, key: string, work: Work<T>): Entry<T> {
    const own = detached(op, MAX_WORK_MS);
    const result = (async () => work.start(own))();
    const entry: Entry<T> = {
      op: own,
      result,
      isDone: false,
      waiters: 0,
      patienceMs: 0,
      timer: undefined,
      collected: undefined,
      ending: undefined,
    };
    this.#entries.set(key, entry);
    result.then(
      () => {
        entry.isDone = true;
        this.#keepForRetry(key, entry, work);
      },
      () => this.#forget(key, entry),
    );
    return entry;
  }

  #forget(key: string, entry: Entry<T>): void {
    clearTimeout(entry.timer);
    if (this.#entries.get(key) === entry) this.#entries.delete(key);
  }

  #keepForRetry(key: string, entry: Entry<T>, work: Work<T>): void {
    if (entry.waiters > 0 || entry.collected || this.#entries.get(key) !== entry) return;
    clearTimeout(entry.timer);
    entry.timer = setTimeout(
      () => {
        if (entry.waiters > 0 || entry.collected) return;
        void this.#abandon(key, entry, work);
      },
      2 * Math.max(entry.patienceMs, this.#minPatienceMs),
    ).unref();
  }

  #abandon(key: string, entry: Entry<T>, work: Work<T>): Promise<void> {
    clearTimeout(entry.timer);
    entry.ending ??= (async () => {
      try {
        entry.op.span.stage('undo');
        await work.abandon(detached(entry.op, MAX_WORK_MS), await entry.result);
      } catch (error) {
        entry.op.log.error({ key, err: messageOf(error) }, 'an abandoned operation could not be undone');
      } finally {
        this.#forget(key, entry);
      }
    })();
    return entry.ending;
  }
}
