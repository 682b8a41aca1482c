interface GateOptions {
  readonly maxBytes: number;
  readonly keepAliveMs: number;
  /** Stop reading from the client, and go on. */
  readonly hold: () => void;
  readonly release: () => void;
  /** Write something small: while nothing is read, only a failing write tells that the client has gone. */
  readonly probe: () => void;
}

/** Counts input that nobody has taken yet, over all streams of one connection, and holds the client back beyond `maxBytes`. */
export class InputGate implements Disposable {
  readonly #options: GateOptions;
  #bytes = 0;
  #held = false;
  #probes: NodeJS.Timeout | undefined;

  constructor(options: GateOptions) {
    this.#options = options;
  }

  add(bytes: number): void {
    this.#bytes += bytes;
    if (this.#held || this.#bytes <= this.#options.maxBytes) return;
    this.#held = true;
    this.#probes = setInterval(this.#options.probe, this.#options.keepAliveMs).unref();
    this.#options.hold();
  }

  take(bytes: number): void {
    this.#bytes -= bytes;
    if (this.#held && this.#bytes <= this.#options.maxBytes / 2) this[Symbol.dispose]();
  }

  /** Releases for good, when the connection ends. */
  [Symbol.dispose](): void {
    clearInterval(this.#probes);
    if (!this.#held) return;
    this.#held = false;
    this.#options.release();
  }
}
