import type { Writable } from 'node:stream';

/** A client's end of an output. One that is gone, or was not asked for, takes everything and keeps nobody waiting: the server tells of its end. */
export class Sink {
  readonly #stream: Writable | undefined;
  #unwritten = 0;
  #onWritten: () => void = () => undefined;

  constructor(stream: Writable | undefined) {
    this.#stream = stream;
    stream?.on('error', () => undefined);
  }

  get #open(): Writable | undefined {
    const stream = this.#stream;
    return stream === undefined || stream.destroyed || stream.writableEnded ? undefined : stream;
  }

  /** false: it has more than it wants. */
  write(chunk: Buffer): boolean {
    const stream = this.#open;
    if (stream === undefined) return true;
    this.#unwritten++;
    return stream.write(chunk, () => {
      this.#unwritten--;
      if (this.#unwritten === 0) this.#onWritten();
    });
  }

  /** What it has taken and not passed on yet. */
  get behindBytes(): number {
    return this.#open?.writableLength ?? 0;
  }

  /** Resolves when it wants more, or is gone. */
  async wanting(): Promise<void> {
    const stream = this.#open;
    if (stream === undefined || !stream.writableNeedDrain) return;
    const { promise, resolve } = Promise.withResolvers<void>();
    stream.once('drain', resolve).once('close', resolve);
    await promise;
    stream.off('drain', resolve).off('close', resolve);
  }

  /** Resolves when all of it is passed on, or it is gone. Once. */
  async written(): Promise<void> {
    const stream = this.#open;
    if (stream === undefined || this.#unwritten === 0) return;
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#onWritten = resolve;
    stream.once('close', resolve);
    await promise;
    stream.off('close', resolve);
  }
}
