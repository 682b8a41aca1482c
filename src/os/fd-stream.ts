import { closeSync, readSync, writeSync } from 'node:fs';
import { Duplex } from 'node:stream';
import { errnoOf } from '../base/errors.ts';
import { watchFd } from './reactor.ts';
import { dupAbove, setNonblocking } from './syscalls.ts';

const READ_BYTES = 64 * 1024;
/** Then others get their turn. */
const READS_PER_TURN = 16;

/**
 * A pipe's end or a terminal's master as a stream that can also be read synchronously: only so is it known that a process which has ended left nothing
 * behind (R15). node:net and node:tty keep that to themselves, and node:tty blocks the event loop on a terminal that nobody reads. Begins when it is
 * read or written; a terminal's EIO is an end. Owns the descriptor, `destroy` closes it.
 */
export class FdStream extends Duplex {
  readonly fd: number;
  /** For writes: the reactor watches a descriptor for one thing at a time. */
  #writeFd: number | undefined;
  #unwatchRead: (() => void) | undefined;
  #unwatchWrite: (() => void) | undefined;
  #stopped = false;

  constructor(fd: number) {
    super({ allowHalfOpen: true, autoDestroy: false, readableHighWaterMark: READ_BYTES, writableHighWaterMark: READ_BYTES });
    this.fd = fd;
    setNonblocking(fd);
  }

  /** Reads no more by itself: what comes is for `readNow`. What it holds already is still to be taken by `read`. */
  stopReading(): void {
    this.#stopped = true;
    this.pause();
    this.#unwatchRead?.();
    this.#unwatchRead = undefined;
  }

  /** Some bytes, 'empty' when there are none at the moment, 'end' when there never will be. */
  readNow(): Buffer | 'empty' | 'end' {
    if (this.destroyed) return 'end';
    const buffer = Buffer.allocUnsafe(READ_BYTES);
    for (;;) {
      try {
        const sizeBytes = readSync(this.fd, buffer);
        if (sizeBytes === 0) return 'end';
        // A small piece must not keep a large buffer alive.
        return sizeBytes > READ_BYTES / 2 ? buffer.subarray(0, sizeBytes) : Buffer.from(buffer.subarray(0, sizeBytes));
      } catch (error) {
        const errno = errnoOf(error);
        if (errno === 'EAGAIN') return 'empty';
        if (errno === 'EIO') return 'end';
        if (errno !== 'EINTR') throw error;
      }
    }
  }

  override _read(): void {
    if (this.#unwatchRead === undefined && !this.#stopped) this.#fill();
  }

  #fill(): void {
    this.#unwatchRead = undefined;
    try {
      for (let reads = 0; reads < READS_PER_TURN; reads++) {
        const piece = this.readNow();
        if (piece === 'empty') break;
        if (piece === 'end') return void this.push(null);
        if (!this.push(piece) || this.#stopped || this.destroyed) return;
      }
      this.#unwatchRead = watchFd(this.fd, () => this.#fill());
    } catch (error) {
      this.destroy(error as Error);
    }
  }

  override _write(chunk: Buffer, encoding: BufferEncoding, callback: (error?: Error) => void): void {
    let rest = chunk;
    try {
      while (rest.length > 0) rest = rest.subarray(writeSync(this.fd, rest));
    } catch (error) {
      if (errnoOf(error) !== 'EAGAIN') return callback(error as Error);
    }
    if (rest.length === 0) return callback();
    try {
      this.#writeFd ??= dupAbove(this.fd, 3);
      this.#unwatchWrite = watchFd(this.#writeFd, () => this._write(rest, encoding, callback), 'writable');
    } catch (error) {
      callback(error as Error);
    }
  }

  override _destroy(error: Error | null, callback: (error: Error | null) => void): void {
    this.#unwatchRead?.();
    this.#unwatchWrite?.();
    closeSync(this.fd);
    if (this.#writeFd !== undefined) closeSync(this.#writeFd);
    callback(error);
  }
}
