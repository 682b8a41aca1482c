/** Pulls share it, the collection of garbage has it alone: what a pull has fetched and not yet recorded is never taken for garbage. */
export class ImageGate {
  #shared = 0;
  #isExclusive = false;
  readonly #waiting: Array<{ exclusive: boolean; enter: () => void }> = [];

  shared(): Promise<Disposable> {
    return this.#enter(false);
  }

  exclusive(): Promise<Disposable> {
    return this.#enter(true);
  }

  async #enter(exclusive: boolean): Promise<Disposable> {
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#waiting.push({ exclusive, enter: resolve });
    this.#admit();
    await promise;
    return { [Symbol.dispose]: () => this.#leave(exclusive) };
  }

  // A collection does not hold up pulls that came after it while it waits for those that came before.
  #admit(): void {
    for (let i = 0; i < this.#waiting.length;) {
      const next = this.#waiting[i];
      const mayEnter = next !== undefined && !this.#isExclusive && (!next.exclusive || this.#shared === 0);
      if (!mayEnter) {
        i++;
        continue;
      }
      this.#waiting.splice(i, 1);
      if (next.exclusive) this.#isExclusive = true;
      else this.#shared++;
      next.enter();
    }
  }

  #leave(exclusive: boolean): void {
    if (exclusive) this.#isExclusive = false;
    else this.#shared--;
    this.#admit();
  }
}
