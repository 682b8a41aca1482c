import type { Op } from '../base/op.ts';
import type { ContentStore } from '../content/content.ts';
import type { CheckDepth, Snapshotter } from '../snapshot/snapshotter.ts';
import type { ImageRecord, ImageStore } from './store.ts';

interface Verified {
  readonly store: ImageStore;
  readonly content: ContentStore;
  readonly snapshotter: Snapshotter;
}

/**
 * Looks for damage in what images are made of, one image after another. What is damaged is dropped, and nothing else: images that can't do without it are out
 * of sight until a pull has brought it back, which finds the rest in place (R10).
 */
export async function verifyImages(op: Op, deps: Verified, depth: CheckDepth): Promise<void> {
  const { store, content, snapshotter } = deps;
  const seen = new Set<string>();
  const isNew = (what: string): boolean => seen.size < seen.add(what).size;
  for (const { id, blobs, layers, chainIds } of store.records()) {
    const sizes = new Map((layers ?? []).map(({ digest, sizeBytes }) => [digest, sizeBytes]));
    let isDamaged = false;
    for (const digest of blobs.filter(isNew)) {
      if ((await content.check(op, { digest, sizeBytes: sizes.get(digest) }, depth)) !== 'damaged') continue;
      isDamaged = true;
      op.log.error({ image: id, blob: digest }, 'a blob is damaged: it is dropped');
      await content.remove(digest);
    }
    for (const chainId of chainIds.filter((each) => isNew(`layer ${each}`))) {
      if (await snapshotter.isIntact(op, chainId, depth)) continue;
      isDamaged = true;
      op.log.error({ image: id, layer: chainId }, 'a layer is damaged: it is dropped');
      await snapshotter.dropLayer(op, chainId);
    }
    if (isDamaged) await hideBroken(op, deps);
  }
}

/** Images whose layers or config are lost are hidden: they could not run. */
export async function hideBroken(op: Op, { store, content, snapshotter }: Verified): Promise<void> {
  const isWhole = async ({ id, topLayer }: ImageRecord): Promise<boolean> =>
    (topLayer === null || (await snapshotter.hasLayer(topLayer))) && (await content.info(id)) !== undefined;
  for (const record of store.records()) {
    if (store.isHidden(record.id) || (await isWhole(record))) continue;
    op.log.warn({ image: record.id, names: record.repoTags }, 'an image has lost a part: it is not there until it is pulled again');
    store.hide(record.id);
  }
}
