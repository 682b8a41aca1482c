import { closeSync, readSync } from 'node:fs';
import { Socket } from 'node:net';
import { errnoOf } from '../base/errors.ts';

/** After the end of a process at most this much is taken from its pipe: a child that it left behind may write for ever (R15). */
const MAX_DRAIN_BYTES = 1 << 20;
const MAX_LINE_BYTES = 64 * 1024;
const LEAST_KEPT_BYTES = 1024;

/** The first line of a pipe (without the newline), or what came before its end; undefined for nothing. Owns `fd`. */
export function readLine(fd: number): { done: Promise<string | undefined>; close: () => void } {
  const socket = new Socket({ fd, readable: true, writable: false });
  const { promise, resolve } = Promise.withResolvers<string | undefined>();
  let text = '';
  socket.setEncoding('utf8');
  socket.on('data', (chunk: string) => {
    text += chunk;
    const end = text.indexOf('\n');
    if (end >= 0) resolve(text.slice(0, end));
    else if (text.length > MAX_LINE_BYTES) resolve(text);
  });
  socket.on('error', () => resolve(undefined));
  socket.on('close', () => resolve(text === '' ? undefined : text));
  return { done: promise, close: () => socket.destroy() };
}

/** Collects one stream of a process up to a cap; what is beyond is read (the process must not block) and dropped. Owns `fd`. */
export class Capture {
  readonly #fd: number;
  readonly #socket: Socket;
  readonly #maxBytes: number;
  /** Copied into one: a process that writes byte by byte must not cost what as many buffers do. */
  #kept = Buffer.alloc(0);
  #sizeBytes = 0;
  #ended = false;
  #result: Buffer | undefined;
  truncated = false;

  constructor(fd: number, maxBytes: number) {
    this.#fd = fd;
    this.#maxBytes = maxBytes;
    this.#socket = new Socket({ fd, readable: true, writable: false });
    this.#socket.on('data', (chunk: Buffer) => this.#take(chunk));
    this.#socket.on('end', () => (this.#ended = true));
    this.#socket.on('error', () => (this.#ended = true));
  }

  #take(chunk: Buffer): void {
    const room = this.#maxBytes - this.#sizeBytes;
    if (chunk.length > room) this.truncated = true;
    if (room <= 0) return;
    const sizeBytes = this.#sizeBytes + Math.min(chunk.length, room);
    if (sizeBytes > this.#kept.length) this.#grow(sizeBytes);
    chunk.copy(this.#kept, this.#sizeBytes, 0, sizeBytes - this.#sizeBytes);
    this.#sizeBytes = sizeBytes;
  }

  #grow(leastBytes: number): void {
    const larger = Buffer.allocUnsafe(Math.min(this.#maxBytes, Math.max(2 * this.#kept.length, leastBytes, LEAST_KEPT_BYTES)));
    this.#kept.copy(larger, 0, 0, this.#sizeBytes);
    this.#kept = larger;
  }

  /** Everything that was written before this call; doesn't wait for the other end to close. Closes the descriptor; repeatable. */
  finish(): Buffer {
    if (this.#result) return this.#result;
    this.#socket.pause();
    const buffer = Buffer.allocUnsafe(64 * 1024);
    for (let drainedBytes = 0; !this.#ended && drainedBytes < MAX_DRAIN_BYTES;) {
      let sizeBytes: number;
      try {
        sizeBytes = readSync(this.#fd, buffer);
      } catch (error) {
        if (errnoOf(error) === 'EINTR') continue;
        break;
      }
      if (sizeBytes === 0) break;
      drainedBytes += sizeBytes;
      this.#take(buffer.subarray(0, sizeBytes));
    }
    this.#socket.destroy();
    this.#result = this.#kept.subarray(0, this.#sizeBytes);
    return this.#result;
  }
}

export function closeAll(fds: readonly number[]): void {
  for (const fd of fds) closeSync(fd);
}
