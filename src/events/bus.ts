import { anySignal } from '../base/any-signal.ts';

const MAX_QUEUED = 4096;
const MAX_QUEUED_BYTES = 32 * 1024 * 1024;

/** One subscriber's events, in order. `overflowed` ends the stream: the client has to list again (R24). */
export interface Subscription<T> extends AsyncIterable<T>, Disposable {
  readonly overflowed: boolean;
}

interface Queued<T> {
  readonly event: T;
  readonly sizeBytes: number;
}

export interface BusOptions<T> {
  /** What an event takes in memory, roughly. */
  readonly sizeOf?: (event: T) => number;
  readonly maxQueued?: number;
  readonly maxQueuedBytes?: number;
}

/** Fan-out with one bounded queue per subscriber; publishing never waits. */
export class Bus<T> {
  readonly #subscribers = new Set<(queued: Queued<T>) => void>();
  readonly #options: Required<BusOptions<T>>;
  readonly #closed = new AbortController();
  #dropped = 0;

  constructor({ sizeOf = () => 0, maxQueued = MAX_QUEUED, maxQueuedBytes = MAX_QUEUED_BYTES }: BusOptions<T> = {}) {
    this.#options = { sizeOf, maxQueued, maxQueuedBytes };
  }

  publish(event: T): void {
    if (this.#subscribers.size === 0) return;
    const queued = { event, sizeBytes: this.#options.sizeOf(event) };
    for (const push of this.#subscribers) push(queued);
  }

  /** Every subscriber gets what is queued for it, and then its end. */
  close(): void {
    this.#closed.abort();
  }

  /** Events that subscribers lost by being too slow, since the start: what they had not read yet and the one for which there was no room. */
  get dropped(): number {
    return this.#dropped;
  }

  get subscribers(): number {
    return this.#subscribers.size;
  }

  subscribe(subscriber: AbortSignal): Subscription<T> {
    const signal = anySignal([subscriber, this.#closed.signal]);
    const { maxQueued, maxQueuedBytes } = this.#options;
    let queue: Array<Queued<T>> = [];
    let queuedBytes = 0;
    let overflowed = false;
    let wake: (() => void) | undefined;
    const push = (queued: Queued<T>): void => {
      // One event always fits, however large.
      if (queue.length >= maxQueued || (queue.length > 0 && queuedBytes + queued.sizeBytes > maxQueuedBytes)) {
        overflowed = true;
        this.#dropped += queue.length + 1;
        // It lists again anyway, and then knows more than these would have told; one that never reads again holds nothing.
        queue = [];
        this.#subscribers.delete(push);
      } else {
        queue.push(queued);
        queuedBytes += queued.sizeBytes;
      }
      wake?.();
    };
    this.#subscribers.add(push);
    const onAbort = (): void => wake?.();
    signal.addEventListener('abort', onAbort);
    const close = (): void => {
      this.#subscribers.delete(push);
      queue = [];
      signal.removeEventListener('abort', onAbort);
    };
    async function* iterate(): AsyncGenerator<T> {
      for (;;) {
        const queued = queue.shift();
        if (queued !== undefined) {
          queuedBytes -= queued.sizeBytes;
          yield queued.event;
        } else if (overflowed || signal.aborted) return;
        else await new Promise<void>((resolve) => (wake = resolve));
      }
    }
    return {
      get overflowed() {
        return overflowed;
      },
      [Symbol.asyncIterator]: iterate,
      [Symbol.dispose]: close,
    };
  }
}
