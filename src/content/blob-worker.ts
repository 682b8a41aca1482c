import { createHash } from 'node:crypto';
import { readSync, writeSync } from 'node:fs';
import type { MessagePort } from 'node:worker_threads';
import { parentPort } from 'node:worker_threads';
import { errnoOf, messageOf } from '../base/errors.ts';
import { yieldToOthers } from '../os/threads.ts';

/** To the thread, for one blob after another: `begin`, pieces, `end`. The descriptor stays the starter's to close, but not before the reply to `end`. */
export type BlobMessage =
  | { readonly begin: { readonly fd: number; readonly sizeBytes: number } }
  | { readonly chunk: Uint8Array; readonly at: number }
  | { readonly follower: MessagePort }
  | { readonly end: true };

export type BlobReply =
  /** So many more bytes are written. */
  | { readonly written: number }
  | { readonly error: string; readonly code: string | undefined }
  /** Of the bytes from the beginning as far as there is no gap. */
  | { readonly sha256: string; readonly sizeBytes: number };

/** The starter and the follower are told each time so many bytes are written. */
export const STEP_BYTES = 512 << 10;
const READ_BYTES = 1 << 20;

/** Writes pieces where they belong, and hashes them in order: what came too early is read back from the page cache. */
class BlobFile {
  readonly #fd: number;
  readonly #sizeBytes: number;
  readonly #hash = createHash('sha256');
  /** What is beyond a gap: lengths by where they begin. */
  readonly #ahead = new Map<number, number>();
  #buffer: Buffer | undefined;
  #hashed = 0;
  #told = 0;
  #unacknowledged = 0;
  #follower: MessagePort | undefined;

  constructor({ fd, sizeBytes }: { fd: number; sizeBytes: number }) {
    this.#fd = fd;
    this.#sizeBytes = sizeBytes;
  }

  /** Returns how many bytes to acknowledge. */
  write(chunk: Uint8Array, at: number): number {
    for (let done = 0; done < chunk.length;) done += writeSync(this.#fd, chunk, done, chunk.length - done, at + done);
    if (at === this.#hashed) this.#take(chunk);
    else this.#ahead.set(at, chunk.length);
    for (let length = this.#next(); length !== undefined; length = this.#next()) this.#readBack(length);
    this.#tell();
    this.#unacknowledged += chunk.length;
    if (this.#unacknowledged < STEP_BYTES) return 0;
    const written = this.#unacknowledged;
    this.#unacknowledged = 0;
    return written;
  }

  follow(port: MessagePort): void {
    this.#follower = port;
    this.#told = 0;
    this.#tell();
  }

  end(): { sha256: string; sizeBytes: number } {
    this.#follower?.close();
    return { sha256: this.#hash.digest('hex'), sizeBytes: this.#hashed };
  }

  #next(): number | undefined {
    const length = this.#ahead.get(this.#hashed);
    this.#ahead.delete(this.#hashed);
    return length;
  }

  #readBack(length: number): void {
    const buffer = (this.#buffer ??= Buffer.allocUnsafe(READ_BYTES));
    for (const end = this.#hashed + length; this.#hashed < end;) {
      const read = readSync(this.#fd, buffer, 0, Math.min(READ_BYTES, end - this.#hashed), this.#hashed);
      if (read === 0) throw new Error('what was written to a blob is not there');
      this.#take(buffer.subarray(0, read));
    }
  }

  #take(bytes: Uint8Array): void {
    this.#hash.update(bytes);
    this.#hashed += bytes.length;
  }

  #tell(): void {
    if (this.#hashed - this.#told < STEP_BYTES && (this.#hashed < this.#sizeBytes || this.#told === this.#hashed)) return;
    this.#told = this.#hashed;
    this.#follower?.postMessage(this.#hashed);
  }
}

let file: BlobFile | undefined;
let hasFailed = false;

function handle(message: BlobMessage): BlobReply | undefined {
  if ('begin' in message) {
    file = new BlobFile(message.begin);
    hasFailed = false;
  } else if ('follower' in message) file?.follow(message.follower);
  else if ('end' in message) return file?.end();
  else if (!hasFailed) {
    const written = file?.write(message.chunk, message.at) ?? 0;
    // Freed now: a collector that counts objects sees no hurry.
    (message.chunk.buffer as ArrayBuffer).transfer(0);
    if (written > 0) return { written };
  }
  return undefined;
}

yieldToOthers();
parentPort?.on('message', (message: BlobMessage) => {
  try {
    const reply = handle(message);
    if (reply !== undefined) parentPort?.postMessage(reply);
  } catch (error) {
    hasFailed = true;
    parentPort?.postMessage({ error: messageOf(error), code: errnoOf(error) } satisfies BlobReply);
  }
});
