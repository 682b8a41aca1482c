import type { MessagePort } from 'node:worker_threads';
import type { Digest } from '../base/digest.ts';
import type { Op } from '../base/op.ts';
import type { DiskUsage } from '../os/disk-usage.ts';
import type { AskBlob } from '../os/http-client.ts';

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
 * Write side of one blob that is fetched: pieces go to an ingest file; `commit` verifies size and digest, makes the data durable (R8), and only then
 * gives it its name. Disposing an uncommitted ingest removes it.
 */
export interface Ingest extends AsyncDisposable {
  /** Its answers' bodies can be received into the blob: in any order, each byte once. */
  readonly ask: AskBlob;
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
  /** A document that is there already, in memory: durable when it resolves. dataLoss when it is not what its digest says. */
  put(op: Op, document: { readonly digest: Digest; readonly bytes: Uint8Array }): Promise<void>;
  /** Opens an ingest; others of the same digest are none of its business. */
  ingest(expected: BlobInfo): Promise<Ingest>;
  list(): AsyncIterable<BlobInfo>;
  /** What all blobs take on disk, with their directories; without what is still being written. */
  usage(): Promise<DiskUsage>;
  /** Missing is ok. Works on a full disk (R11). */
  remove(digest: Digest): Promise<void>;
}
