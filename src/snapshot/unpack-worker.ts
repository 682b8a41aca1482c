import { createHash } from 'node:crypto';
import { writeSync } from 'node:fs';
import { errnoOf, messageOf } from '../base/errors.ts';
import { doLayerJobs } from './layer-thread.ts';
import { streamErrorKind, streamPlain } from './plain-stream.ts';
import { LayerFilter } from './tar/layer-filter.ts';
import { TarReader } from './tar/reader.ts';
import type { UnpackJob, UnpackReply } from './unpack.ts';

// A thread that unpacks one layer at a time: hashing, and reads and writes that block, never happen on the event loop.

/** Small writes (headers) are gathered up to this. */
const GATHER_BYTES = 256 << 10;

/** What goes to the tar program. */
class TarPipe {
  readonly #fd: number;
  readonly #gathered = Buffer.allocUnsafe(GATHER_BYTES);
  #bytes = 0;

  constructor(fd: number) {
    this.#fd = fd;
  }

  write(bytes: Buffer): void {
    if (this.#bytes + bytes.length > GATHER_BYTES) this.flush();
    if (bytes.length > GATHER_BYTES) return this.#writeAll(bytes);
    bytes.copy(this.#gathered, this.#bytes);
    this.#bytes += bytes.length;
  }

  flush(): void {
    this.#writeAll(this.#gathered.subarray(0, this.#bytes));
    this.#bytes = 0;
  }

  #writeAll(bytes: Buffer): void {
    for (let at = 0; at < bytes.length;) at += writeSync(this.#fd, bytes, at);
  }
}

doLayerJobs(async ({ input, tarFd }: UnpackJob): Promise<UnpackReply> => {
  const hash = createHash('sha256');
  const pipe = new TarPipe(tarFd);
  const filter = new LayerFilter((bytes) => pipe.write(bytes));
  const reader = new TarReader(filter);
  try {
    await streamPlain(input, (chunk) => {
      hash.update(chunk);
      reader.push(chunk);
    });
    reader.end();
    const changes = filter.end();
    pipe.flush();
    return { diffId: `sha256:${hash.digest('hex')}`, changes };
  } catch (error) {
    return { error: messageOf(error), kind: streamErrorKind(error), tarIsGone: errnoOf(error) === 'EPIPE' };
  }
});
