import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import type { LayeredOptions } from '../layered.ts';
import { createLayeredSnapshotter } from '../layered.ts';
import { remembered } from '../remembered.ts';
import type { Snapshotter } from '../snapshotter.ts';
import { IndexedLayers } from './indexed-layers.ts';
import type { Backing } from './mounting.ts';
import type { ErofsSupport } from './probe.ts';
import { probeErofs } from './probe.ts';

export interface ErofsSnapshotter extends Snapshotter {
  /** What was found when it was opened. */
  readonly support: ErofsSupport;
}

/**
 * Layers are never unpacked: their tars stay as they are, `<root>/tars/`, each once, and the kernel mounts an index of each (DESIGN 3.6). failedPrecondition
 * when this machine can't. `backings`: those to try, best first.
 */
export async function createErofsSnapshotter(options: LayeredOptions & { backings?: readonly Backing[] }): Promise<ErofsSnapshotter> {
  let support: ErofsSupport | undefined;
  const snapshotter = await createLayeredSnapshotter(options, async (places) => {
    await mkdir(join(places.root, 'tars'), { recursive: true, mode: 0o700 });
    support = await remembered(join(places.root, 'erofs.probed.json'), () => probeErofs(join(places.root, 'tmp'), options.backings));
    options.log.info({ ...support.backing, nests: support.nests }, 'EROFS indexes can be mounted');
    return new IndexedLayers({ ...places, backing: support.backing });
  });
  return Object.assign(snapshotter, { support: support as ErofsSupport });
}
