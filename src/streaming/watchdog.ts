import { ClassifiedError } from '../base/errors.ts';
import type { StreamingLimits } from './limits.ts';

/** Ends a connection that is idle, or whose client takes no output although there is some. */
export class Watchdog implements Disposable {
  readonly #idle: NodeJS.Timeout;
  readonly #expire: (error: ClassifiedError) => void;
  readonly #writeStallMs: number;
  #stall: NodeJS.Timeout | undefined;
  #writing = 0;

  constructor(limits: StreamingLimits, expire: (error: ClassifiedError) => void) {
    this.#expire = expire;
    this.#writeStallMs = limits.writeStallMs;
    this.#idle = setTimeout(
      () => expire(new ClassifiedError('deadlineExceeded', `the client was idle for ${limits.idleMs} ms`)),
      limits.idleMs,
    ).unref();
  }

  /** A byte went in either direction. */
  active(): void {
    this.#idle.refresh();
  }

  /** A write began to wait for the client. */
  writeBegins(): void {
    if (this.#writing++ > 0) return;
    const late = (): void => this.#expire(new ClassifiedError('deadlineExceeded', `the client read nothing for ${this.#writeStallMs} ms`));
    this.#stall = setTimeout(late, this.#writeStallMs).unref();
  }

  /** The client took some of what waits. */
  progress(): void {
    this.#idle.refresh();
    if (this.#writing > 0) this.#stall?.refresh();
  }

  writeEnds(): void {
    this.#idle.refresh();
    if (--this.#writing > 0) this.#stall?.refresh();
    else clearTimeout(this.#stall);
  }

  [Symbol.dispose](): void {
    clearTimeout(this.#idle);
    clearTimeout(this.#stall);
    // What ends or begins later arms nothing.
    this.#writing = Infinity;
  }
}
