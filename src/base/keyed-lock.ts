/** FIFO locks by key: `using _ = await locks.lock(id)`. Order across rooms: sandbox -> container -> chainId -> blob, never upward. */
export class KeyedLock {
  readonly #tails = new Map<string, Promise<void>>();

  async lock(key: string): Promise<Disposable> {
    const before = this.#tails.get(key) ?? Promise.resolve();
    const { promise, resolve } = Promise.withResolvers<void>();
    const tail = before.then(() => promise);
    this.#tails.set(key, tail);
    await before;
    return {
      [Symbol.dispose]: () => {
        if (this.#tails.get(key) === tail) this.#tails.delete(key);
        resolve();
      },
    };
  }

  get size(): number {
    return this.#tails.size;
  }
}
