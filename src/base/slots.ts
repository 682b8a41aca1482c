export interface Slot extends Disposable {
  /** Somebody waits for one. */
  readonly isWanted: boolean;
}

/** At most `count` at the same time, first come, first served: `using _slot = await slots.take()`. */
export class Slots {
  #free: number;
  readonly #waiting: Array<() => void> = [];

  constructor(count: number) {
    this.#free = count;
  }

  async take(): Promise<Slot> {
    if (this.#free > 0) this.#free--;
    else await new Promise<void>((resolve) => this.#waiting.push(resolve));
    return this.#slot();
  }

  /** undefined: none is free. */
  tryTake(): Slot | undefined {
    if (this.#free === 0) return undefined;
    this.#free--;
    return this.#slot();
  }

  #slot(): Slot {
    const waiting = this.#waiting;
    return {
      get isWanted() {
        return waiting.length > 0;
      },
      [Symbol.dispose]: () => {
        const next = waiting.shift();
        if (next) next();
        else this.#free++;
      },
    };
  }
}
