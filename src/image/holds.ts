import type { Digest } from '../base/digest.ts';

/**
 * Blobs and layers that pulls build on and no record names yet: a collection leaves them. Neither waits for the other, but for the removal of one thing, so
 * pulls that overlap for ever starve no collection.
 */
export class Holds {
  readonly #held = new Map<Digest, number>();
  readonly #removing = new Map<Digest, Promise<void>>();

  /** None of these is removed until it is disposed. One whose removal had begun is gone when this resolves. */
  async hold(digests: Iterable<Digest>): Promise<Disposable> {
    const own = [...new Set(digests)];
    for (const digest of own) this.#held.set(digest, (this.#held.get(digest) ?? 0) + 1);
    await Promise.allSettled(own.map((digest) => this.#removing.get(digest)));
    return { [Symbol.dispose]: () => own.forEach((digest) => this.#letGo(digest)) };
  }

  #letGo(digest: Digest): void {
    const left = (this.#held.get(digest) ?? 1) - 1;
    if (left > 0) this.#held.set(digest, left);
    else this.#held.delete(digest);
  }

  /** Runs `remove` unless somebody holds it: then nothing happens. Asks in the same tick `isGarbage`, for a pull may have recorded it just now. */
  async remove(digest: Digest, { isGarbage, remove }: { isGarbage: () => boolean; remove: () => Promise<void> }): Promise<void> {
    if (this.#held.has(digest) || !isGarbage()) return;
    const removed = remove().finally(() => this.#removing.delete(digest));
    this.#removing.set(digest, removed);
    await removed;
  }
}
