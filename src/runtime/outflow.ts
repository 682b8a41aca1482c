import { setTimeout as sleep } from 'node:timers/promises';
import type { FdStream } from '../os/fd-stream.ts';
import type { Sink } from './sink.ts';

/** After the end of a process at most this much is taken of its output: a child that it left behind may write for ever (R15). */
const MAX_DRAIN_BYTES = 1 << 20;
const SETTLE_MS = 5;

/** Copies a process' output to a client at the client's pace. */
export class Outflow {
  readonly #source: FdStream;
  readonly #sink: Sink;
  readonly #settles: number;
  #isOver = false;
  #isFinishing = false;

  /** `settles`: how often, 5 ms apart, an empty source is asked again once its process has ended: a terminal's output passes through a kernel thread. */
  constructor(source: FdStream, sink: Sink, settles: number) {
    this.#source = source;
    this.#sink = sink;
    this.#settles = settles;
    for (const event of ['end', 'error', 'close']) source.on(event, () => (this.#isOver = true));
    source.on('data', this.#onData);
  }

  readonly #onData = (chunk: Buffer): void => {
    if (this.#sink.write(chunk)) return;
    this.#source.pause();
    void this.#sink.wanting().then(() => {
      if (!this.#isFinishing) this.#source.resume();
    });
  };

  /** Once the process has ended: resolves when all that it wrote before is written. Doesn't wait for others to close the other end. */
  async finish(): Promise<void> {
    this.#isFinishing = true;
    const source = this.#source;
    source.stopReading();
    source.off('data', this.#onData);
    await this.#sink.wanting();
    for (let piece = source.read() as Buffer | null; piece !== null; piece = source.read() as Buffer | null) await this.#give(piece);
    await this.#drain();
    await this.#sink.written();
  }

  async #give(piece: Buffer): Promise<void> {
    if (!this.#sink.write(piece)) await this.#sink.wanting();
  }

  async #drain(): Promise<void> {
    let settles = this.#settles;
    for (let drainedBytes = 0; drainedBytes < MAX_DRAIN_BYTES && !this.#isOver;) {
      const piece = this.#source.readNow();
      if (piece === 'end' || (piece === 'empty' && settles-- <= 0)) return;
      if (piece === 'empty') await sleep(SETTLE_MS);
      else {
        drainedBytes += piece.length;
        await this.#give(piece);
      }
    }
  }
}
