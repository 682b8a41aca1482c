import { assert } from '../base/assert.ts';

/** Part of a blob that one connection fetches: [at, to). */
export interface Part {
  /** Moves on as bytes come. */
  at: number;
  readonly to: number;
}

/** What of a blob is not there yet, and who brings it. Parts are given out from the beginning on, for it is read in order while it comes. */
export class Missing {
  /** In order, and nobody's. */
  #free: Part[];
  #taken = 0;

  constructor(sizeBytes: number) {
    this.#free = sizeBytes > 0 ? [{ at: 0, to: sizeBytes }] : [];
  }

  /** undefined: there is none that nobody brings. */
  take(maxBytes: number): Part | undefined {
    const first = this.#free[0];
    if (first === undefined) return undefined;
    const part = { at: first.at, to: Math.min(first.to, first.at + maxBytes) };
    if (part.to === first.to) this.#free.shift();
    else first.at = part.to;
    this.#taken++;
    return part;
  }

  /** What is left of it is for others. */
  giveBack(part: Part): void {
    assert(this.#taken > 0, 'a part that was taken is given back');
    this.#taken--;
    if (part.at < part.to) this.#free = [...this.#free, { ...part }].sort((a, b) => a.at - b.at);
  }

  get freeBytes(): number {
    return this.#free.reduce((sum, { at, to }) => sum + to - at, 0);
  }

  get isDone(): boolean {
    return this.#taken === 0 && this.#free.length === 0;
  }
}
