import { existsSync, mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { gunzipSync } from 'node:zlib';
import { startRegistry } from '../../../test/lib/docker-registry.ts';
import { imageOf } from '../../images/image.ts';
import { push } from '../../images/push.ts';
import type { Layer } from '../../images/tree.ts';
import { layerOf } from '../../images/tree.ts';
import type { ImagePlan } from './plans.ts';
import { topEntries } from './plans.ts';

/** To be raised when plans make other bytes. */
const VERSION = 1;

export interface StoredLayer {
  readonly digest: string;
  readonly diffId: string;
  readonly sizeBytes: number;
  readonly plainBytes: number;
}

/** An image that the registry has as <name>:1, and as <name>:2 with one layer more. */
export interface StoredImage {
  readonly layers: readonly StoredLayer[];
  readonly top: StoredLayer;
}

/** Registry storage below `dir` with the plans' images of that scale: made at the first call, which takes a minute, and kept. */
export async function stock(
  dir: string,
  plans: readonly ImagePlan[],
  scale: number,
): Promise<{ storage: string; images: Map<string, StoredImage> }> {
  const shelf = join(dir, `images-v${VERSION}-x${scale}`);
  const storage = join(shelf, 'registry');
  mkdirSync(storage, { recursive: true });
  const images = new Map<string, StoredImage>();
  for (const plan of plans) {
    const note = join(shelf, `${plan.name}.json`);
    // The note is written last: what has one is complete.
    if (!existsSync(note)) await make(plan, { scale, storage, note });
    images.set(plan.name, JSON.parse(readFileSync(note, 'utf8')) as StoredImage);
  }
  return { storage, images };
}

async function make(plan: ImagePlan, { scale, storage, note }: { scale: number; storage: string; note: string }): Promise<void> {
  console.log(`making ${plan.name} (once: it is kept in ${storage})`);
  const layers: Layer[] = [];
  for (let n = 0; n < plan.layers; n++) layers.push(await layerOf(plan.entries(n, scale)));
  const top = await layerOf(topEntries(plan.name));
  await using registry = await startRegistry(storage);
  await push(`http://${registry.host}`, `${plan.name}:1`, imageOf({ layers }));
  await push(`http://${registry.host}`, `${plan.name}:2`, imageOf({ layers: [...layers, top] }));
  const stored: StoredImage = { layers: layers.map(storedLayer), top: storedLayer(top) };
  writeFileSync(`${note}.new`, JSON.stringify(stored, undefined, 2));
  renameSync(`${note}.new`, note);
}

const storedLayer = ({ digest, diffId, blob }: Layer): StoredLayer => ({
  ...{ digest, diffId },
  ...{ sizeBytes: blob.length, plainBytes: gunzipSync(blob).length },
});

/** An empty directory below `dir` for one run; what a run that was killed left there goes first. */
export function emptyDir(dir: string): string {
  const run = join(dir, 'run');
  rmSync(run, { recursive: true, force: true });
  mkdirSync(run, { recursive: true });
  return run;
}
