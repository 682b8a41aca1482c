import { fdatasync, writeSync } from 'node:fs';
import { promisify } from 'node:util';
import { createHash } from 'node:crypto';
import type { Digest } from '../../base/digest.ts';
import { WriteOut } from '../../os/write-out.ts';
import type { LayerJobError } from '../layer-thread.ts';
import { tooMuch } from '../tar/layer-rules.ts';
import { TarReader } from '../tar/reader.ts';
import type { PlainSource } from '../plain-input.ts';
import { streamPlain } from '../plain-stream.ts';
import { writeIndex } from './index-writer.ts';
import { LayerIndexer } from './layer-indexer.ts';

/** To the thread; the descriptors stay the starter's to close. */
export interface IndexJob {
  readonly input: PlainSource;
  /** Empty file for the tar; undefined when it is stored already, and is so long. */
  readonly dataFd: number | undefined;
  readonly storedBytes: number | undefined;
  /** Empty file. */
  readonly indexFd: number;
  /** There is nothing below for it to hide. */
  readonly isBottom: boolean;
}

export interface IndexedLayer {
  readonly diffId: Digest;
  readonly tarBytes: number;
  readonly opaqueRoot: boolean;
  /** Directories whose attributes are those of the layer below: their paths and where their inodes stand in the index. Parents first. */
  readonly implied: ReadonlyArray<{ readonly path: string; readonly offset: number }>;
}

export type IndexReply = IndexedLayer | LayerJobError;

/** The tar's file ends with a whole page: a loop device would cut off the rest of a sector. */
const PAGE_BYTES = 4096;
/** gzip can't do more than 1032; what claims more beyond this size is made to fill disks (S3). */
const MAX_RATIO = 1100;
const RATIO_FREE_BYTES = 2 ** 30;

const datasync = promisify(fdatasync);

/** What the tar goes into. Durable after `finish`. */
class DataFile {
  readonly #fd: number;
  readonly #maxBytes: number;
  readonly #out: WriteOut;
  #bytes = 0;

  constructor(fd: number, maxBytes: number) {
    this.#fd = fd;
    this.#out = new WriteOut(fd);
    this.#maxBytes = maxBytes;
  }

  write(chunk: Buffer): void {
    this.#bytes += chunk.length;
    if (this.#bytes > this.#maxBytes) throw tooMuch(`more than ${MAX_RATIO} times its blob`);
    this.#writeAll(chunk);
    this.#out.reached(this.#bytes);
  }

  async finish(): Promise<void> {
    const rest = this.#bytes % PAGE_BYTES;
    if (rest > 0) this.#writeAll(Buffer.alloc(PAGE_BYTES - rest));
    await datasync(this.#fd);
  }

  #writeAll(chunk: Buffer): void {
    for (let at = 0; at < chunk.length;) at += writeSync(this.#fd, chunk, at);
  }
}

/** Stores, verifies and indexes one layer in one pass. The index is not durable yet: it may have to be completed from the layers below. */
export async function indexLayer(job: IndexJob): Promise<IndexedLayer> {
  const indexer = new LayerIndexer({ isBottom: job.isBottom });
  const reader = new TarReader(indexer);
  const hash = createHash('sha256');
  const maxBytes = Math.max(RATIO_FREE_BYTES, job.input.sizeBytes * MAX_RATIO);
  const data = job.dataFd === undefined ? undefined : new DataFile(job.dataFd, maxBytes);
  let tarBytes = 0;
  await streamPlain(job.input, (chunk) => {
    // What is stored has zeros behind it.
    const own = chunk.subarray(0, (job.storedBytes ?? Infinity) - tarBytes);
    tarBytes += own.length;
    reader.push(chunk);
    data?.write(chunk);
    hash.update(own);
  });
  reader.end();
  const stored = data?.finish();
  const diffId = `sha256:${hash.digest('hex')}` as const;
  const contents = indexer.end();
  const { offsetOf } = writeIndex(job.indexFd, contents, { digest: diffId.slice('sha256:'.length), sizeBytes: tarBytes });
  await stored;
  const implied = contents.impliedDirs.flatMap((inode) => {
    const offset = offsetOf(inode);
    return offset === undefined ? [] : [{ path: contents.tree.pathOf(inode), offset }];
  });
  return { diffId, tarBytes, opaqueRoot: contents.opaqueRoot, implied };
}
