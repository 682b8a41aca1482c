/**
 * Calls `over` once nothing was heard for `ms` milliseconds. In a loop that stood still, over a write to a slow disk for one, what came meanwhile is read before
 * that is judged.
 */
export class Patience implements Disposable {
  readonly #ms: number;
  readonly #over: () => void;
  #heardAt = performance.now();
  #timer: NodeJS.Timeout | undefined;

  constructor(ms: number, over: () => void) {
    this.#ms = ms;
    this.#over = over;
    this.#wait(ms);
  }

  heard(): void {
    this.#heardAt = performance.now();
  }

  [Symbol.dispose](): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
  }

  #wait(ms: number): void {
    this.#timer = setTimeout(() => setImmediate(() => this.#judge()), ms);
  }

  #judge(): void {
    if (this.#timer === undefined) return;
    const leftMs = this.#heardAt + this.#ms - performance.now();
    if (leftMs > 0) return this.#wait(Math.ceil(leftMs));
    this[Symbol.dispose]();
    this.#over();
  }
}
