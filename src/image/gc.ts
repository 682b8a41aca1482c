import type { Digest } from '../base/digest.ts';
import { ClassifiedError, messageOf } from '../base/errors.ts';
import type { Op } from '../base/op.ts';
import type { ContentStore } from '../content/content.ts';
import type { Snapshotter } from '../snapshot/snapshotter.ts';
import type { Holds } from './holds.ts';
import type { ImageStore } from './store.ts';
import { documentsOf } from './store.ts';

export interface Collected {
  readonly store: ImageStore;
  readonly content: ContentStore;
  readonly snapshotter: Snapshotter;
  readonly holds: Holds;
  /** Whether layers' blobs stay when they are unpacked. */
  readonly keepsLayerBlobs: boolean;
}

/**
 * Drops every blob and layer that no image names and no pull holds. A layer that a container stands on stays: returns whether there are such. One at a time.
 */
export async function collectGarbage(op: Op, { store, content, snapshotter, holds, keepsLayerBlobs }: Collected): Promise<boolean> {
  const blobsKept = (): Set<Digest> => new Set(store.records().flatMap((record) => (keepsLayerBlobs ? record.blobs : documentsOf(record))));
  const layersKept = (): Set<Digest> => new Set(store.records().flatMap(({ chainIds }) => chainIds));
  const blobs = blobsKept();
  for await (const { digest } of content.list())
    if (!blobs.has(digest)) await holds.remove(digest, { isGarbage: () => !blobsKept().has(digest), remove: () => content.remove(digest) });

  const kept = layersKept();
  // Children come after what they stand on, mostly, and go before it.
  let layers = (await snapshotter.layers()).filter((chainId) => !kept.has(chainId)).reverse();
  // Where they do not: as long as a round removes something, the next may remove more.
  for (let removed = true; removed && layers.length > 0;) {
    const left: Digest[] = [];
    for (const chainId of layers) {
      try {
        await holds.remove(chainId, {
          isGarbage: () => !layersKept().has(chainId),
          remove: () => snapshotter.removeLayer(op, chainId),
        });
      } catch (error) {
        if (!(error instanceof ClassifiedError) || error.kind !== 'failedPrecondition')
          op.log.warn({ layer: chainId, err: messageOf(error) }, 'a layer could not be removed');
        left.push(chainId);
      }
    }
    removed = left.length < layers.length;
    layers = left;
  }
  return layers.length > 0;
}
