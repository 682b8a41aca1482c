import type { Digest } from '../base/digest.ts';
import { ClassifiedError, messageOf } from '../base/errors.ts';
import type { Op } from '../base/op.ts';
import type { ContentStore } from '../content/content.ts';
import type { Snapshotter } from '../snapshot/snapshotter.ts';
import type { ImageStore } from './store.ts';

/**
 * Drops every blob and layer that no image names. The caller sees to it that no pull runs. A layer that a container stands on stays: returns whether there
 * are such.
 */
export async function collectGarbage(
  op: Op,
  { store, content, snapshotter }: { store: ImageStore; content: ContentStore; snapshotter: Snapshotter },
): Promise<boolean> {
  const records = store.records();
  const blobs = new Set<Digest>(records.flatMap((record) => record.blobs));
  for await (const { digest } of content.list()) if (!blobs.has(digest)) await content.remove(digest);
  const kept = new Set<Digest>(records.flatMap(({ chainIds }) => chainIds));
  // Children come after what they stand on, mostly, and go before it.
  let layers = (await snapshotter.layers()).filter((chainId) => !kept.has(chainId)).reverse();
  // Where they do not: as long as a round removes something, the next may remove more.
  for (let removed = true; removed && layers.length > 0;) {
    const left: Digest[] = [];
    for (const chainId of layers) {
      try {
        await snapshotter.removeLayer(op, chainId);
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
