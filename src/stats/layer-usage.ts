import { setTimeout as sleep } from 'node:timers/promises';
import type { DiskUsage } from '../os/disk-usage.ts';
import type { Snapshotter } from '../snapshot/snapshotter.ts';

/** A list doesn't wait longer for the measuring of a layer. */
const PATIENCE_MS = 1_000;
/** What a container's last processes wrote is there by then. */
const SETTLED_MS = 10_000;

export interface MeasuredLayer {
  readonly id: string;
  /** Lives as long as the container's record: what is known of the layer goes with it. */
  readonly config: object;
  /** Decimal nanoseconds since the epoch; undefined while the container may write. */
  readonly finishedAtNs: string | undefined;
}

/**
 * What writable layers take. The measuring may walk the layer, so it is not waited for beyond a second: then the last known usage answers, or undefined.
 * A layer of a container that has exited is measured once more and then never again, however many there are.
 */
export class LayerUsages {
  readonly #snapshotter: Pick<Snapshotter, 'usage'>;
  readonly #known = new WeakMap<object, { readonly usage: DiskUsage; readonly isFinal: boolean }>();
  readonly #patienceMs: number;

  constructor(snapshotter: Pick<Snapshotter, 'usage'>, patienceMs = PATIENCE_MS) {
    this.#snapshotter = snapshotter;
    this.#patienceMs = patienceMs;
  }

  async of({ id, config, finishedAtNs }: MeasuredLayer): Promise<DiskUsage | undefined> {
    const known = this.#known.get(config);
    if (known?.isFinal) return known.usage;
    const isFinal = finishedAtNs !== undefined && Date.now() - Number(BigInt(finishedAtNs) / 1_000_000n) > SETTLED_MS;
    const measuring = this.#snapshotter.usage(id).then(
      (usage) => {
        this.#known.set(config, { usage, isFinal });
        return usage;
      },
      // Not there yet or not any more, or in a state that du doesn't like.
      () => known?.usage,
    );
    const patience = new AbortController();
    const late = sleep(this.#patienceMs, known?.usage, { signal: patience.signal }).catch(() => undefined);
    return Promise.race([measuring, late]).finally(() => patience.abort());
  }
}
