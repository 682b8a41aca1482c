import { readSync } from 'node:fs';
import { Readable, Writable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { setImmediate as nextTurn } from 'node:timers/promises';
import type { MessagePort } from 'node:worker_threads';
import { createGunzip, createZstdDecompress } from 'node:zlib';
import type { ErrorKind } from '../base/errors.ts';
import { ClassifiedError, errnoOf, isDiskFull, kindOf } from '../base/errors.ts';
import { IsalGunzip } from '../os/isal.ts';
import type { PlainSource } from './plain-input.ts';

// For threads of their own: reads block, and so may `take`.
const READ_BYTES = 1 << 20;
/** More than a source that reads one ahead and a transform that takes one at a time hold. */
const RING_BUFFERS = 5;
/** After this many bytes what was begun elsewhere may report. */
const TURN_BYTES = 32 << 20;

/**
 * Hands the plain bytes of a layer to `take`, in order. A chunk is the stream's again when `take` returns. unavailable: the blob was given up. gzip is
 * inflated by zlib where there is no ISA-L.
 */
export async function streamPlain(source: PlainSource, take: (chunk: Buffer) => void, openIsal = IsalGunzip.open): Promise<void> {
  if (source.inflate === 'none') {
    const buffer = Buffer.allocUnsafe(READ_BYTES);
    for await (const chunk of chunksOf(source, () => buffer)) take(chunk);
    return;
  }
  const isal = source.inflate === 'gzip' ? openIsal() : undefined;
  if (isal !== undefined) {
    for await (const chunk of chunksOf(source, () => isal.input)) isal.push(chunk.length, take);
    return isal.end();
  }
  const options = { chunkSize: READ_BYTES / 4 };
  const transform = source.inflate === 'gzip' ? createGunzip(options) : createZstdDecompress(options);
  const sink = new Writable({
    write(chunk: Buffer, _encoding, done) {
      try {
        take(chunk);
        done();
      } catch (error) {
        done(error as Error);
      }
    },
  });
  // The streams keep a chunk, each of them, while the next is read.
  const ring = Array.from({ length: RING_BUFFERS }, () => Buffer.allocUnsafeSlow(READ_BYTES / 4));
  let turn = 0;
  const chunks = chunksOf(source, () => ring[turn++ % RING_BUFFERS] as Buffer);
  await pipeline(Readable.from(chunks, { highWaterMark: 1 }), transform, sink);
}

async function* chunksOf({ fd, port, sizeBytes }: PlainSource, bytes: () => Buffer): AsyncGenerator<Buffer> {
  using growth = port === undefined ? undefined : new Growth(port);
  let turnAt = TURN_BYTES;
  for (let at = 0; at < sizeBytes;) {
    const there = growth === undefined ? sizeBytes : await growth.beyond(at);
    const buffer = bytes();
    const length = readSync(fd, buffer, 0, Math.min(buffer.length, there - at), at);
    if (length === 0) return;
    at += length;
    yield buffer.subarray(0, length);
    if (at < turnAt) continue;
    turnAt = at + TURN_BYTES;
    await nextTurn();
  }
}

/** How far a blob is that is still being fetched. */
class Growth implements Disposable {
  readonly #port: MessagePort;
  #bytes = 0;
  #isOver = false;
  #wake: (() => void) | undefined;

  constructor(port: MessagePort) {
    this.#port = port;
    port.on('message', (bytes: number) => {
      this.#bytes = bytes;
      this.#wake?.();
    });
    port.on('close', () => {
      this.#isOver = true;
      this.#wake?.();
    });
  }

  /** Resolves with how many bytes are there when those are more than `at`. */
  async beyond(at: number): Promise<number> {
    while (this.#bytes <= at) {
      if (this.#isOver) throw new ClassifiedError('unavailable', `the blob was given up after ${this.#bytes} bytes`);
      await new Promise<void>((resolve) => (this.#wake = resolve));
    }
    return this.#bytes;
  }

  [Symbol.dispose](): void {
    this.#port.close();
  }
}

/** zlib's own errors mean that the blob is damaged; a full disk is nobody's fault. */
export function streamErrorKind(error: unknown): ErrorKind {
  const code = errnoOf(error) ?? '';
  const damaged = code.startsWith('Z_') || code.startsWith('ZSTD_') || code === 'ERR_STREAM_PREMATURE_CLOSE';
  if (damaged) return 'dataLoss';
  return isDiskFull(error) ? 'resourceExhausted' : kindOf(error);
}
