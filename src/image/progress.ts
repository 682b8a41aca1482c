import type { Digest } from '../base/digest.ts';
import { messageOf } from '../base/errors.ts';
import { nowNs } from '../base/ids.ts';

/** `fetching` counts bytes of the network; `unpacking` begins with its turn. */
export type LayerState = 'waiting' | 'fetching' | 'unpacking' | 'ready';

export interface LayerProgress {
  readonly digest: Digest;
  /** Compressed, as the manifest says. */
  readonly sizeBytes: number;
  readonly fetchedBytes: number;
  readonly state: LayerState;
}

export interface PullProgress {
  /** Normalised name. */
  readonly image: string;
  readonly state: 'resolving' | 'pulling' | 'pulled' | 'failed';
  /** The lowest first; none until the manifest is there. */
  readonly layers: readonly LayerProgress[];
  readonly startedAtNs: string;
  /** Of a failed pull, or "". */
  readonly error: string;
}

/** How long an ended pull is still told of: watchers look several times a second. */
const KEPT_MS = 1_000;

/** One pull, as its own steps tell it. */
export class TrackedPull {
  readonly image: string;
  readonly startedAtNs = String(nowNs());
  state: PullProgress['state'] = 'resolving';
  error = '';
  readonly layers: Array<{ readonly digest: Digest; readonly sizeBytes: number; state: 'waiting' | 'unpacking' | 'ready' }> = [];

  constructor(image: string) {
    this.image = image;
  }

  /** The manifest is there. */
  begin(layers: ReadonlyArray<{ readonly digest: Digest; readonly sizeBytes: number }>): void {
    this.state = 'pulling';
    this.layers.push(...layers.map(({ digest, sizeBytes }) => ({ digest, sizeBytes, state: 'waiting' as const })));
  }

  reached(index: number, state: 'unpacking' | 'ready'): void {
    const layer = this.layers[index];
    if (layer) layer.state = state;
  }
}

/** How far the pulls of this node are. What two of them share is fetched once, so bytes are counted by blob. */
export class Progress {
  readonly #pulls = new Set<TrackedPull>();
  readonly #fetching = new Map<Digest, number>();

  /** Runs `work`, and tells of it until a second after its end. */
  async track<T>(image: string, work: (pull: TrackedPull) => Promise<T>): Promise<T> {
    const pull = new TrackedPull(image);
    this.#pulls.add(pull);
    try {
      const result = await work(pull);
      pull.state = 'pulled';
      return result;
    } catch (error) {
      pull.state = 'failed';
      pull.error = messageOf(error);
      throw error;
    } finally {
      setTimeout(() => this.#pulls.delete(pull), KEPT_MS).unref();
    }
  }

  /** `bytes` of the blob are there; an attempt that begins anew says 0. */
  fetched(digest: Digest, bytes: number): void {
    this.#fetching.set(digest, bytes);
  }

  fetchEnded(digest: Digest): void {
    this.#fetching.delete(digest);
  }

  list(): PullProgress[] {
    return [...this.#pulls].map(({ image, state, startedAtNs, error, layers }) => ({
      ...{ image, state, startedAtNs, error },
      layers: layers.map((layer) => this.#layer(layer)),
    }));
  }

  #layer({ digest, sizeBytes, state }: TrackedPull['layers'][number]): LayerProgress {
    if (state !== 'waiting') return { digest, sizeBytes, fetchedBytes: sizeBytes, state };
    const fetchedBytes = this.#fetching.get(digest);
    return { digest, sizeBytes, fetchedBytes: fetchedBytes ?? 0, state: fetchedBytes === undefined ? 'waiting' : 'fetching' };
  }
}
