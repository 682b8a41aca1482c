import type { Op } from '../base/op.ts';
import type { DiskUsage } from '../os/disk-usage.ts';
import type { Layer, StoredIndex, StoredTar } from './overlay-records.ts';
import type { CheckDepth, LayerSource } from './snapshotter.ts';

/** A layer that is unpacked but not committed: its parent may not be there yet. */
export interface Unpacked extends AsyncDisposable {
  /** It hides all of the layers below. */
  readonly opaqueRoot: boolean;
  /** For the record. */
  readonly tar?: StoredTar;
  /** The parent is committed: what the layer takes from those below is filled in (their names, topmost first), and everything of it is durable after this. */
  complete(op: Op, lowers: readonly string[]): Promise<Completed>;
  /** It is committed: disposing keeps what it holds outside of its directory. */
  commit(layer: Layer): void;
}

export interface Completed {
  readonly usage: DiskUsage;
  /** For the record. */
  readonly index?: StoredIndex;
}

/** Of `layers/<name>`: the directory itself, and its record. */
export interface LayerFiles {
  readonly dir: DiskUsage;
  readonly record: DiskUsage;
}

/** How the files of layers are kept, such that `layers/<name>/fs` can be a lower directory of an overlay. */
export interface LayerStore {
  readonly name: string;
  /** Where `layers/<name>/fs` are mounts of their own: what statfs(2) calls their filesystem. */
  readonly mountedAs: number | undefined;
  /** What the records say at the start; whatever of the store no record names is left of a crash. Returns the layers whose content is lost. */
  load(layers: readonly Layer[]): Promise<readonly Layer[]>;
  /** Verifies the diffID (dataLoss) and keeps the layer's content, partly in the empty directory `dir`, which becomes `layers/<name>`. */
  unpack(op: Op, source: LayerSource, into: { dir: string; isBottom: boolean }): Promise<Unpacked>;
  /** `layers/<name>/fs` shows the layer's files when it returns. Again: no work. */
  mount(layer: Layer): void;
  /** Undo of `mount`, at once, whoever may still be using it. Not mounted is fine. */
  unmount(name: string): void;
  /** What `layers/<name>` takes, with all that is in it. */
  usage(layer: Layer, files: LayerFiles): DiskUsage;
  /** What is kept outside of it. */
  shared(): Promise<DiskUsage>;
  /** What is kept of it is what was committed, as far as `depth` goes. */
  isIntact(op: Op, layer: Layer, depth: CheckDepth): Promise<boolean>;
  /** The layer's directory is on its way to be deleted. */
  forget(layer: Layer): Promise<void>;
}
