/** Readings of the last second, by key, shared by all who ask meanwhile: bounded by what can be asked in one second. A failure is shared too, and then forgotten. */
export class Recent<T> {
  readonly #readings = new Map<string, Promise<T>>();
  readonly #freshMs: number;

  constructor(freshMs = 1_000) {
    this.#freshMs = freshMs;
  }

  of(key: string, read: () => Promise<T>): Promise<T> {
    const recent = this.#readings.get(key);
    if (recent) return recent;
    const reading = read();
    this.#readings.set(key, reading);
    // Counted from its end: a slow reading isn't begun again while it runs (R5).
    const forget = (): void => {
      setTimeout(() => this.#readings.delete(key), this.#freshMs).unref();
    };
    reading.then(forget, () => this.#readings.delete(key));
    return reading;
  }
}
