import type { Digest } from '../base/digest.ts';
import type { Op } from '../base/op.ts';

export interface BlobInfo {
  readonly digest: Digest;
  readonly sizeBytes: number;
}

/**
 * Write side of one blob: bytes go to an ingest file; `commit` verifies size and digest, makes the data durable (R8), and only then
 * gives it its name. Disposing an uncommitted ingest removes it.
 */
export interface Ingest extends AsyncDisposable {
  write(chunk: Uint8Array): Promise<void>;
  /** Idempotent when the blob is there already. dataLoss if digest or size differ. */
  commit(op: Op): Promise<BlobInfo>;
}

/** Content-addressed blobs (compressed layers, configs, manifests). Blobs never change; readers need no lock. */
export interface ContentStore {
  has(digest: Digest): Promise<boolean>;
  info(digest: Digest): Promise<BlobInfo | undefined>;
  /** Absolute path of the blob's file, for readers that stream or map it. notFound. */
  path(digest: Digest): string;
  /** Whole blob, for small JSON documents. notFound; resourceExhausted above maxBytes. */
  read(digest: Digest, maxBytes: number): Promise<Buffer>;
  /** Opens an ingest; a stale one of the same digest is discarded. */
  ingest(expected: { digest: Digest; sizeBytes?: number }): Promise<Ingest>;
  list(): AsyncIterable<BlobInfo>;
  /** Missing is ok. Works on a full disk (R11). */
  remove(digest: Digest): Promise<void>;
}
