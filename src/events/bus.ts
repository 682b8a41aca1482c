const MAX_QUEUED = 4096;

/** One subscriber's events, in order. `overflowed` ends the stream: the client has to list again (R24). */
export interface Subscription<T> extends AsyncIterable<T>, Disposable {
  readonly overflowed: boolean;
}

/** Fan-out with one bounded queue per subscriber; publishing never waits. */
export class Bus<T> {
  readonly #subscribers = new Set<(event: T) => void>();
  #dropped = 0;

  publish(event: T): void {
    for (const push of this.#subscribers) push(event);
  }

  /** Events that subscribers lost by being too slow, since the start. */
  get dropped(): number {
    return this.#dropped;
  }

  get subscribers(): number {
    return this.#subscribers.size;
  }

  subscribe(signal: AbortSignal): Subscription<T> {
    const queue: T[] = [];
    let overflowed = false;
    let wake: (() => void) | undefined;
    const push = (event: T): void => {
      if (queue.length >= MAX_QUEUED) {
        overflowed = true;
        this.#dropped++;
        this.#subscribers.delete(push);
      } else queue.push(event);
      wake?.();
    };
    this.#subscribers.add(push);
    const onAbort = (): void => wake?.();
    signal.addEventListener('abort', onAbort);
    const close = (): void => {
      this.#subscribers.delete(push);
      signal.removeEventListener('abort', onAbort);
    };
    async function* iterate(): AsyncGenerator<T> {
      for (;;) {
        const event = queue.shift();
        if (event !== undefined) yield event;
        else if (overflowed || signal.aborted) return;
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
