import { createHash } from 'node:crypto';
import { writeSync } from 'node:fs';
import { parentPort, workerData } from 'node:worker_threads';
import { errnoOf, messageOf } from '../base/errors.ts';
import { streamErrorKind, streamPlain } from './plain-stream.ts';
import { LayerFilter } from './tar/layer-filter.ts';
import { TarReader } from './tar/reader.ts';
import type { UnpackJob, UnpackReply } from './unpack.ts';

// One thread for as long as one layer is unpacked: hashing, and reads and writes that block, never happen on the event loop.

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

async function unpack(): Promise<UnpackReply> {
  try {
    await streamPlain({ fd: inputFd, inflate }, (chunk) => {
      hash.update(chunk);
      reader.push(chunk);
    });
    reader.end();
    const changes = filter.end();
    flush();
    return { diffId: `sha256:${hash.digest('hex')}`, changes };
  } catch (error) {
    return { error: messageOf(error), kind: streamErrorKind(error), tarIsGone: errnoOf(error) === 'EPIPE' };
  }
}

parentPort?.postMessage(await unpack());
