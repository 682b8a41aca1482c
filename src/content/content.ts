import type { MessagePort } from 'node:worker_threads';
import type { Digest } from '../base/digest.ts';
import type { Op } from '../base/op.ts';
import type { DiskUsage } from '../os/disk-usage.ts';

export interface BlobInfo {
  readonly digest: Digest;
  readonly sizeBytes: number;
}

export type BlobState = 'intact' | 'damaged' | 'absent';

/** A blob's file while bytes are added to it: its user reads what is there. The descriptor is the user's to close, and the port too. */
export interface GrowingFile {
  readonly fd: number;
  /** Tells how many bytes are there from the beginning on, now and then, the last time all. It closes before that when the file is given up. */
  readonly port: MessagePort;
  readonly sizeBytes: number;
}

/**
 * Write side of one blob: bytes go to an ingest file; `commit` verifies size and digest, makes the data durable (R8), and only then
 * gives it its name. Disposing an uncommitted ingest removes it.
 */
export interface Ingest extends AsyncDisposable {
  /**
   * The blob's bytes from `at` on: in any order, each once. Resolves when there is room for more. `chunk` is the ingest's from now on. dataLoss beyond the
   * blob's size.
   */
  write(chunk: Uint8Array, at: number): Promise<void>;
  /** Idempotent when the blob is there already. dataLoss if digest or size differ. */
  commit(op: Op): Promise<BlobInfo>;
  /** For the first who asks, who sees bytes that nobody has verified. undefined: too small a blob to be worth it, or it has come to its end. */
  follow(): GrowingFile | undefined;
}

/** Content-addressed blobs (compressed layers, configs, manifests). Blobs never change; readers need no lock. */
export interface ContentStore {
  /** It is there, and as long as it should be: one that a crash left shorter is fetched again. */
  has(blob: BlobInfo): Promise<boolean>;
  info(digest: Digest): Promise<BlobInfo | undefined>;
  /** Absolute path of the blob's file, for readers that stream or map it. notFound. */
  path(digest: Digest): string;
  /** Whole blob, for small JSON documents. notFound; resourceExhausted above maxBytes; dataLoss when it is damaged. */
  read(digest: Digest, maxBytes: number): Promise<Buffer>;
  /**
   * `absent` or whether it is what its name says: `full` reads all of it, in no hurry; `quick` looks at the size, where that is known, and reads what is
   * small.
   */
  check(op: Op, blob: { readonly digest: Digest; readonly sizeBytes?: number | undefined }, depth: 'quick' | 'full'): Promise<BlobState>;
  /** Opens an ingest; others of the same digest are none of its business. */
  ingest(expected: BlobInfo): Promise<Ingest>;
  list(): AsyncIterable<BlobInfo>;
  /** What all blobs take on disk, with their directories; without what is still being written. */
  usage(): Promise<DiskUsage>;
  /** Missing is ok. Works on a full disk (R11). */
  remove(digest: Digest): Promise<void>;
}
