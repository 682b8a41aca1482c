import { INITIAL_WINDOW_BYTES, MAX_WINDOW_BYTES } from './frame.ts';

/** What we may still send, of one stream or of the whole session. Negative after a client shrank it, or while it does no flow control. */
export class SendWindow {
  #bytes: number;

  constructor(bytes = INITIAL_WINDOW_BYTES) {
    this.#bytes = bytes;
  }

  get bytes(): number {
    return this.#bytes;
  }

  use(bytes: number): void {
    this.#bytes -= bytes;
  }

  /** False when the window would be larger than the protocol allows. */
  grow(bytes: number): boolean {
    this.#bytes += bytes;
    return this.#bytes <= MAX_WINDOW_BYTES;
  }
}

/** What the client may still send, and what was taken from its input and not granted again. */
export class ReceiveWindow {
  #bytes = INITIAL_WINDOW_BYTES;
  #taken = 0;

  /** False when the client sent beyond its window. */
  receive(bytes: number): boolean {
    this.#bytes -= bytes;
    return this.#bytes >= 0;
  }

  /**
   * What to grant now that `bytes` more were taken: half a window at a time. With a client that has not shown whether it `obeys`, nothing before it has
   * stopped exactly at its window's end: one that does no flow control goes over it, and is better not bothered with frames that it does not know.
   */
  take(bytes: number, obeys: boolean): number {
    this.#taken += bytes;
    const due = obeys ? this.#taken >= INITIAL_WINDOW_BYTES / 2 : this.#bytes === 0 && this.#taken === INITIAL_WINDOW_BYTES;
    if (!due) return 0;
    const grant = this.#taken;
    this.#taken = 0;
    this.#bytes += grant;
    return grant;
  }
}
