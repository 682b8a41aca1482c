import { createHash } from 'node:crypto';
import { readSync, writeSync } from 'node:fs';
import { pipeline } from 'node:stream/promises';
import { Readable, Writable } from 'node:stream';
import { parentPort, workerData } from 'node:worker_threads';
import { createGunzip, createZstdDecompress } from 'node:zlib';
import { errnoOf, kindOf, messageOf } from '../base/errors.ts';
import { LayerFilter } from './tar/layer-filter.ts';
import { TarReader } from './tar/reader.ts';
import type { UnpackJob, UnpackReply } from './unpack.ts';

// One thread for as long as one layer is unpacked: hashing, and reads and writes that block, never happen on the event loop.
const READ_BYTES = 1 << 20;
/** Small writes (headers) are gathered up to this. */
const GATHER_BYTES = 256 << 10;

const { inputFd, tarFd, inflate } = workerData as UnpackJob;

function writeAll(bytes: Buffer): void {
  for (let at = 0; at < bytes.length;) at += writeSync(tarFd, bytes, at);
}

const gathered = Buffer.allocUnsafe(GATHER_BYTES);
let gatheredBytes = 0;

function flush(): void {
  writeAll(gathered.subarray(0, gatheredBytes));
  gatheredBytes = 0;
}

function write(bytes: Buffer): void {
  if (gatheredBytes + bytes.length > GATHER_BYTES) flush();
  if (bytes.length > GATHER_BYTES) return writeAll(bytes);
  bytes.copy(gathered, gatheredBytes);
  gatheredBytes += bytes.length;
}

const hash = createHash('sha256');
const filter = new LayerFilter(write);
const reader = new TarReader(filter);

function take(chunk: Buffer): void {
  hash.update(chunk);
  reader.push(chunk);
}

function* input(bytes: () => Buffer): Generator<Buffer> {
  for (;;) {
    const buffer = bytes();
    const length = readSync(inputFd, buffer, 0, buffer.length, null);
    if (length === 0) return;
    yield buffer.subarray(0, length);
  }
}

async function inflated(transform: NodeJS.ReadWriteStream): Promise<void> {
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
  await pipeline(Readable.from(input(() => Buffer.allocUnsafe(READ_BYTES / 4))), transform, sink);
}

async function unpack(): Promise<UnpackReply> {
  try {
    if (inflate === 'gzip') await inflated(createGunzip({ chunkSize: READ_BYTES / 4 }));
    else if (inflate === 'zstd') await inflated(createZstdDecompress({ chunkSize: READ_BYTES / 4 }));
    else {
      const buffer = Buffer.allocUnsafe(READ_BYTES);
      for (const chunk of input(() => buffer)) take(chunk);
    }
    reader.end();
    const changes = filter.end();
    flush();
    return { diffId: `sha256:${hash.digest('hex')}`, changes };
  } catch (error) {
    const code = errnoOf(error) ?? '';
    const damaged = code.startsWith('Z_') || code.startsWith('ZSTD_') || code === 'ERR_STREAM_PREMATURE_CLOSE';
    return { error: messageOf(error), kind: damaged ? 'dataLoss' : kindOf(error), tarIsGone: code === 'EPIPE' };
  }
}

parentPort?.postMessage(await unpack());
