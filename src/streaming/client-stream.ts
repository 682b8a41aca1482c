import { Duplex } from 'node:stream';

/** What a queued piece costs beside its bytes, so that a flood of one-byte pieces is bounded too. */
const PIECE_BYTES = 256;
const JOIN_BYTES = 65_536;
const WATERMARK_BYTES = 65_536;

type Done = (error?: Error | null) => void;

/** The connection that a stream belongs to. */
export interface StreamOwner {
  readonly outputLimitBytes: number;
  /** Sends `chunk` and calls back when the operating system has it: its memory may be used again then. */
  write(stream: ClientStream, chunk: Buffer, done: Done): void;
  /** Tells the client that no more output follows. */
  endOutput(stream: ClientStream, done: Done): void;
  /** Input waits in the stream's queue; `bytes` count what it costs. */
  queued(bytes: number): void;
  /** Input was taken from the queue: `size` bytes of the client's, that cost `bytes`. */
  taken(stream: ClientStream, size: number, bytes: number): void;
  /** The stream was destroyed, or both of its halves have ended. */
  closedStream(stream: ClientStream): void;
  /** The runtime wrote on although the client is behind by more than `outputLimitBytes`. */
  overflowed(stream: ClientStream): void;
}

/**
 * One stream of one client, whatever the protocol. Input waits in a queue of its own until someone reads, because what is granted to the client depends on
 * what was really taken. A stream that its client or connection ends is destroyed without an error: writes to it call back with one, nothing is thrown.
 */
export class ClientStream extends Duplex {
  readonly id: number;
  readonly #owner: StreamOwner;
  #queue: Buffer[] = [];
  #inputEnded = false;
  #wanted = false;

  constructor(id: number, owner: StreamOwner) {
    super({ highWaterMark: WATERMARK_BYTES, allowHalfOpen: true });
    this.id = id;
    this.#owner = owner;
    this.on('error', () => {});
  }

  /** Input of the client's. Dropped when nobody will read it. */
  receive(chunk: Buffer): void {
    if (chunk.length === 0) return;
    if (this.destroyed || this.#inputEnded) {
      this.#owner.taken(this, chunk.length, 0);
      return;
    }
    this.#queue.push(chunk);
    this.#owner.queued(chunk.length + PIECE_BYTES);
    this.#flow();
  }

  /** The client's half-close. */
  endInput(): void {
    if (this.#inputEnded) return;
    this.#inputEnded = true;
    this.#flow();
  }

  get inputEnded(): boolean {
    return this.#inputEnded;
  }

  override write(chunk: unknown, encoding?: unknown, done?: unknown): boolean {
    const more = super.write(chunk, encoding as BufferEncoding, done as Done | undefined);
    if (this.writableLength > this.#owner.outputLimitBytes) this.#owner.overflowed(this);
    return more;
  }

  override _read(): void {
    this.#wanted = true;
    this.#flow();
  }

  override _write(chunk: Buffer, _encoding: BufferEncoding, done: Done): void {
    if (chunk.length === 0) done();
    else this.#owner.write(this, chunk, done);
  }

  override _final(done: Done): void {
    this.#owner.endOutput(this, done);
  }

  override _destroy(_error: Error | null, done: Done): void {
    while (this.#queue.length > 0) this.#take();
    this.#owner.closedStream(this);
    done();
  }

  #flow(): void {
    while (this.#wanted && this.#queue.length > 0) this.#wanted = this.push(this.#take());
    if (this.#inputEnded && this.#queue.length === 0 && this.#wanted) {
      this.#wanted = false;
      this.push(null);
    }
  }

  /** The next piece, small ones joined. */
  #take(): Buffer {
    let [count, size] = [0, 0];
    for (const { length } of this.#queue) {
      if (count > 0 && size + length > JOIN_BYTES) break;
      count++;
      size += length;
    }
    const pieces = this.#queue.splice(0, count);
    this.#owner.taken(this, size, size + count * PIECE_BYTES);
    return pieces.length === 1 && pieces[0] ? pieces[0] : Buffer.concat(pieces, size);
  }
}
