import { join } from 'node:path';
import { SingleFlight } from '../base/single-flight.ts';
import type { Digest } from '../base/digest.ts';
import { ClassifiedError, invalidArgument, isDiskFull, kindOf, notFound, wrap } from '../base/errors.ts';
import type { Logger } from '../base/log.ts';
import type { Op } from '../base/op.ts';
import { detached, newOp, orOver } from '../base/op.ts';
import { TaskSet } from '../base/task-set.ts';
import type { Config } from '../config/config.ts';
import type { ContentStore } from '../content/content.ts';
import { sumOf } from '../os/disk-usage.ts';
import type { Credentials } from '../registry/auth.ts';
import type { CheckDepth, Snapshotter } from '../snapshot/snapshotter.ts';
import { collectGarbage } from './gc.ts';
import { Holds } from './holds.ts';
import type { AuthConfig, Images } from './image.ts';
import { watchLoop } from './loop-stalls.ts';
import { MAX_DOCUMENT_BYTES } from './manifest.ts';
import type { PullRequest } from './pull.ts';
import { pullImage } from './pull.ts';
import { Progress } from './progress.ts';
import type { TrackedPull } from './progress.ts';
import { nameOf, parseReference } from './reference.ts';
import { Slots } from '../base/slots.ts';
import { ImageStore } from './store.ts';
import { hideBroken, verifyImages } from './verify.ts';

const PULL_TIMEOUT_MS = 3_600_000;
const GC_TIMEOUT_MS = 600_000;
/** What is left of a damaged image is kept for who pulls it again. */
const BROKEN_KEPT_MS = 24 * 3_600_000;

/** The image room, put together: store, pulls, garbage collection, search for damage. `wasCut`: the machine went down under an earlier daemon;
 * `verified`: told when that was looked into, as far as it is wanted. */
export async function createImages(options: {
  config: Config;
  content: ContentStore;
  snapshotter: Snapshotter;
  log: Logger;
  wasCut: boolean;
  verified: () => Promise<void>;
}): Promise<Images & { close(): Promise<void> }> {
  const { config, content, snapshotter, log, wasCut, verified } = options;
  const store = new ImageStore(join(config.root, 'images'), [config.image.pauseImage, ...config.image.pinned]);
  await store.load(log);
  const tasks = new TaskSet(log);
  const pulls = new SingleFlight<Digest>();
  const deps = {
    config,
    content,
    snapshotter,
    store,
    fetches: new SingleFlight<void>(),
    slots: new Slots(config.image.maxConcurrentDownloads),
    progress: new Progress(),
    holds: new Holds(),
    keepsLayerBlobs: config.image.compressedBlobs === 'keep',
  };

  // One at a time; those who ask while the next waits are served by it.
  const collecting = new Slots(1);
  let isWaiting = false;
  let isHeld = false;
  const collect = (): void => {
    if (isWaiting) return;
    isWaiting = true;
    tasks.start('collect images', async () => {
      using _ = await collecting.take();
      isWaiting = false;
      await store.forgetHidden(BROKEN_KEPT_MS);
      isHeld = await collectGarbage(newOp('collect images', { log, timeoutMs: GC_TIMEOUT_MS }), deps);
    });
  };
  await hideBroken(newOp('hide broken images', { log }), deps);
  collect();

  const closing = new AbortController();
  const verify = (depth: CheckDepth): void =>
    tasks.start('verify images', async () => {
      const op = newOp('verify images', { log, signal: closing.signal });
      const startedAtMs = Date.now();
      await verifyImages(op, deps, depth).catch((error: unknown) => {
        if (!closing.signal.aborted) throw error;
      });
      if (closing.signal.aborted) return;
      log.info({ depth, totalMs: Date.now() - startedAtMs }, 'images are verified');
      await verified();
    });
  if (config.image.verify === 'full') verify('full');
  else if (config.image.verify === 'quick' && wasCut) verify('quick');
  else await verified();

  const pullOnce = async (op: Op, request: PullRequest): Promise<Digest> => {
    try {
      const id = await logged(op, request.pull, pullImage(deps, op, request));
      // What it found in place may have been found to be damaged meanwhile.
      await hideBroken(op, deps);
      if (store.isHidden(id)) throw new ClassifiedError('unavailable', `pull image ${id}: a part of it was damaged meanwhile`);
      if (!deps.keepsLayerBlobs) collect();
      return id;
    } catch (error) {
      const isFull = isDiskFull(error);
      if (!isFull && kindOf(error) !== 'resourceExhausted') throw error;
      // What it brought so far would be in the way of everybody else.
      collect();
      throw isFull ? wrap('pull image', error, 'resourceExhausted') : error;
    }
  };

  return {
    find: (ref) => store.find(ref),
    list: () => store.list(),
    async pull(op, ref, auth) {
      const reference = parseReference(ref);
      const credentials = credentialsOf(auth, reference.host);
      // Callers with the same credentials share a pull; it goes on when one of them goes away.
      const key = JSON.stringify([reference, credentials]);
      const pulled = pulls.run(key, async () => {
        const own = detached(op, PULL_TIMEOUT_MS);
        return await deps.progress.track(nameOf(reference), (pull) => pullOnce(own, { reference, credentials, pull }));
      });
      return orOver(op, pulled);
    },
    async remove(_op: Op, ref) {
      const image = store.findAny(ref);
      if (image === undefined) return;
      if (image.pinned)
        throw new ClassifiedError('failedPrecondition', `remove image ${JSON.stringify(ref)}: it is pinned by the configuration`);
      await store.delete(image.id);
      collect();
    },
    released() {
      if (isHeld) collect();
    },
    async fsUsage() {
      const { sizeBytes, inodes } = sumOf(await Promise.all([content.usage(), store.usage(), snapshotter.layersUsage()]));
      return { mountpoint: snapshotter.root(), usedBytes: sizeBytes, inodesUsed: inodes };
    },
    async rawConfig(id) {
      if (store.find(id) === undefined) throw notFound('image', id);
      return (await content.read(id, MAX_DOCUMENT_BYTES)).toString('utf8');
    },
    pulls: () => deps.progress.list(),
    async close() {
      closing.abort();
      await tasks.drain();
    },
  };
}

/** Says what a pull brought, layer by layer, and how long it took. */
async function logged<T>(op: Op, { image, layers }: TrackedPull, pulled: Promise<T>): Promise<T> {
  const startedAtMs = Date.now();
  using loop = watchLoop();
  const result = await pulled;
  const sizes = layers.map(({ digest, sizeBytes }) => `${digest.slice(0, 19)} ${sizeBytes}`);
  op.log.info(
    {
      image,
      totalMs: Date.now() - startedAtMs,
      eventLoopStallMs: loop.maxStallMs(),
      sizeBytes: layers.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0),
      layers: sizes,
    },
    'pulled',
  );
  return result;
}

/** CRI AuthConfig; for another registry than the one it names it is none at all (S13). */
function credentialsOf(auth: AuthConfig | undefined, host: string): Credentials | undefined {
  if (auth === undefined) return undefined;
  const named = auth.serverAddress.replace(/^https?:\/\//, '').split('/')[0] ?? '';
  const dockerHub = new Set(['docker.io', 'index.docker.io', 'registry-1.docker.io']);
  if (named !== '' && named !== host && !(dockerHub.has(named) && dockerHub.has(host))) return undefined;
  const both = auth.username === '' ? decoded(auth.auth) : { username: '', password: '' };
  return {
    username: auth.username || both.username,
    password: auth.password || both.password,
    identityToken: auth.identityToken,
    registryToken: auth.registryToken,
  };
}

/** Docker pads it with NUL. invalidArgument, which does not repeat it, when it is not base64 of user:password. */
function decoded(auth: string): { username: string; password: string } {
  if (auth === '') return { username: '', password: '' };
  const text = /^[A-Za-z0-9+/_-]+={0,2}$/.test(auth) ? Buffer.from(auth, 'base64').toString('utf8').replace(/\0+$/, '') : '';
  const colon = text.indexOf(':');
  if (colon < 0) throw invalidArgument('auth.auth', 'must be the base64 of user:password');
  return { username: text.slice(0, colon), password: text.slice(colon + 1) };
}
