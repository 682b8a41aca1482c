import { readSync } from 'node:fs';
import { Readable, Writable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { createGunzip, createZstdDecompress } from 'node:zlib';
import type { ErrorKind } from '../base/errors.ts';
import { errnoOf, kindOf } from '../base/errors.ts';
import type { Compression } from './tools.ts';

// For threads of their own: reads block, and so may `take`.
const READ_BYTES = 1 << 20;
/** After this many bytes what was begun elsewhere may report. */
const TURN_BYTES = 32 << 20;

function* input(fd: number, bytes: () => Buffer): Generator<Buffer> {
  for (;;) {
    const buffer = bytes();
    const length = readSync(fd, buffer, 0, buffer.length, null);
    if (length === 0) return;
    yield buffer.subarray(0, length);
  }
}

/** Hands the plain bytes of a layer to `take`, in order. A chunk is the stream's again when `take` returns. */
export async function streamPlain({ fd, inflate }: { fd: number; inflate: Compression }, take: (chunk: Buffer) => void): Promise<void> {
  if (inflate === 'gzip') return inflated(fd, createGunzip({ chunkSize: READ_BYTES / 4 }), take);
  if (inflate === 'zstd') return inflated(fd, createZstdDecompress({ chunkSize: READ_BYTES / 4 }), take);
  const buffer = Buffer.allocUnsafe(READ_BYTES);
  let sinceTurn = 0;
  for (const chunk of input(fd, () => buffer)) {
    take(chunk);
    sinceTurn += chunk.length;
    if (sinceTurn < TURN_BYTES) continue;
    sinceTurn = 0;
    await nextTurn();
  }
}

async function inflated(fd: number, transform: NodeJS.ReadWriteStream, take: (chunk: Buffer) => void): Promise<void> {
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
  // The stream keeps a chunk while it reads the next.
  await pipeline(Readable.from(input(fd, () => Buffer.allocUnsafe(READ_BYTES / 4))), transform, sink);
}

/** zlib's own errors mean that the blob is damaged; a full disk is nobody's fault. */
export function streamErrorKind(error: unknown): ErrorKind {
  const code = errnoOf(error) ?? '';
  const damaged = code.startsWith('Z_') || code.startsWith('ZSTD_') || code === 'ERR_STREAM_PREMATURE_CLOSE';
  if (damaged) return 'dataLoss';
  return code === 'ENOSPC' || code === 'EDQUOT' ? 'resourceExhausted' : kindOf(error);
}
