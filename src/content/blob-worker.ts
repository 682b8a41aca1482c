import { createHash } from 'node:crypto';
import { readSync, writeSync } from 'node:fs';
import type { MessagePort } from 'node:worker_threads';
import { parentPort } from 'node:worker_threads';
import { errnoOf, messageOf } from '../base/errors.ts';
import { yieldToOthers } from '../os/threads.ts';

/** To the thread, which has several blobs at a time, by id: `begin`, pieces, `end`. The descriptor is the starter's to close, but not before the reply to `end`. */
export type BlobMessage = { readonly id: number } & (
  | { readonly begin: { readonly fd: number; readonly sizeBytes: number } }
  | { readonly chunk: Uint8Array; readonly at: number }
  | { readonly follower: MessagePort }
  | { readonly end: true }
);

export type BlobReply = { readonly id: number } & BlobNews;

export type BlobNews =
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

/** undefined: writing it has failed, and was told. */
const files = new Map<number, BlobFile | undefined>();

function handle(message: BlobMessage): BlobNews | undefined {
  const { id } = message;
  const file = files.get(id);
  if ('begin' in message) files.set(id, new BlobFile(message.begin));
  else if ('follower' in message) {
    if (file === undefined) message.follower.close();
    else file.follow(message.follower);
  } else if ('end' in message) {
    files.delete(id);
    return file?.end() ?? { sha256: '', sizeBytes: 0 };
  } else {
    const written = file?.write(message.chunk, message.at) ?? 0;
    // Freed now: a collector that counts objects sees no hurry.
    (message.chunk.buffer as ArrayBuffer).transfer(0);
    if (written > 0) return { written };
  }
  return undefined;
}

yieldToOthers();
parentPort?.on('message', (message: BlobMessage) => {
  const { id } = message;
  try {
    const news = handle(message);
    if (news !== undefined) parentPort?.postMessage({ id, ...news } satisfies BlobReply);
  } catch (error) {
    files.get(id)?.end();
    files.set(id, undefined);
    parentPort?.postMessage({ id, error: messageOf(error), code: errnoOf(error) } satisfies BlobReply);
  }
});
