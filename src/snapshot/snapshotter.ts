import type { MessagePort } from 'node:worker_threads';
import type { Digest } from '../base/digest.ts';
import type { Op } from '../base/op.ts';
import type { DiskUsage } from '../os/disk-usage.ts';

/** One mount(2) of a rootfs, ready for os/mount. */
export interface MountSpec {
  readonly type: string;
  readonly source: string;
  readonly flags: readonly string[];
  readonly data: string;
  /** `source` or `data` names this directory as IDMAPPED_DIR: for this mount it is to be seen through `userns` (os/idmapped-view). */
  readonly idmapped?: { readonly dir: string; readonly userns: string; readonly recursive: boolean };
  /** Directories that `source` or `data` names and which have to be of that filesystem (statfs(2)) by now: an empty one in a layer's place can't be told otherwise. */
  readonly mounted?: { readonly dirs: readonly string[]; readonly as: number };
}

/** Stands for the path of that view, which is shorter. */
export const IDMAPPED_DIR = '/proc/self/fd/@idmapped@';

/** For a rootfs in a user namespace: the layers are shared and seen through it, what is written belongs to the host's ids. */
export interface RootfsIdmap {
  /** A pinned user namespace. */
  readonly userns: string;
  /** The host's id; undefined: the namespace has no such id. */
  uid(id: number): number | undefined;
  gid(id: number): number | undefined;
}

export interface LayerSource {
  readonly diffId: Digest;
  /** Path of the compressed or plain tar blob, and its media type (decides gzip, zstd or plain). */
  readonly blobPath: string;
  readonly mediaType: string;
  /** The blob is still to come. */
  readonly fetch?: LayerFetch | undefined;
}

/** A blob on its way to `blobPath`. */
export interface LayerFetch {
  /** Its file can be read while it grows; undefined: it can't. Rejects as `done` does when it does not come to that. */
  readonly begun: Promise<{ follow(): GrowingBlob | undefined } | undefined>;
  /** It is at its path, verified and durable: nothing is committed before. What was read until then may be wrong when this rejects, or was fetched anew. */
  readonly done: Promise<void>;
}

/** For one reader, who closes both. */
export interface GrowingBlob {
  readonly fd: number;
  /** Tells how many bytes are there from the beginning on, at last all; it closes before that when the file is given up. */
  readonly port: MessagePort;
  readonly sizeBytes: number;
}

/** How it is found out what containers have written, and why not by quotas. */
export type UsageMethod = { readonly by: 'project quota' } | { readonly by: 'walk'; readonly why: string };

/** `quick`: sizes, and what is read fast. `full`: all of the bytes, in no hurry. */
export type CheckDepth = 'quick' | 'full';

/**
 * Layers become committed snapshots named by chainId; containers get active snapshots named by a key on top of one.
 * Every verb is idempotent; nothing of an image is visible under a name before it is complete and durable (R8, R9).
 */
export interface Snapshotter {
  readonly name: string;
  /** `prepare` and `view` can be asked for an idmap: this kernel and this filesystem have it. */
  readonly idmaps: boolean;
  readonly usageMethod: UsageMethod;
  /** Unpacks one layer onto its parent and commits it as chainId. Verifies the diffID (dataLoss). Already committed: no work. */
  commitLayer(op: Op, layer: LayerSource, chain: { parent: Digest | undefined; chainId: Digest }): Promise<void>;
  hasLayer(chainId: Digest): Promise<boolean>;
  /** Whether what is kept of this layer is what was committed. Not there: there is nothing wrong with it. */
  isIntact(op: Op, chainId: Digest, depth: CheckDepth): Promise<boolean>;
  /** A damaged layer: nobody finds it any more, the next commit makes it anew. Who stands on it keeps it until they go. Missing is ok. */
  dropLayer(op: Op, chainId: Digest): Promise<void>;
  /** Creates the writable snapshot `key` over a committed layer (undefined: empty). Again with the same key: same mounts. */
  prepare(op: Op, key: string, parent: Digest | undefined, idmap?: RootfsIdmap): Promise<readonly MountSpec[]>;
  /** A read-only view, same rules (image volumes, passwd lookups). */
  view(op: Op, key: string, parent: Digest | undefined, idmap?: RootfsIdmap): Promise<readonly MountSpec[]>;
  /** Directory on the host with the writable layer of `key`, if it has one. */
  upperDir(key: string): string | undefined;
  /** Drops an active snapshot or view. Missing is ok. The caller has unmounted it. */
  remove(op: Op, key: string): Promise<void>;
  /** Drops a committed layer nobody stands on. failedPrecondition when a child or an active snapshot needs it. Missing is ok. */
  removeLayer(op: Op, chainId: Digest): Promise<void>;
  keys(): Promise<string[]>;
  layers(): Promise<Digest[]>;
  /** Of what is written into it: at this moment where it is counted, with all that the snapshot itself needs; at most ten seconds old where it is walked. notFound. */
  usage(key: string): Promise<DiskUsage>;
  /** What all layers take on disk, with their records and directories; without what is still being unpacked, or deleted. */
  layersUsage(): Promise<DiskUsage>;
  /** Everything of this snapshotter on disk, and the filesystem's mountpoint dir for ImageFsInfo. */
  root(): string;
}
