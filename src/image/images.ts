import { join } from 'node:path';
import { SingleFlight } from '../base/single-flight.ts';
import type { Digest } from '../base/digest.ts';
import { ClassifiedError, invalidArgument, notFound } from '../base/errors.ts';
import type { Logger } from '../base/log.ts';
import type { Op } from '../base/op.ts';
import { detached, newOp, orOver } from '../base/op.ts';
import { TaskSet } from '../base/task-set.ts';
import type { Config } from '../config/config.ts';
import type { ContentStore } from '../content/content.ts';
import type { Credentials } from '../registry/auth.ts';
import type { Snapshotter } from '../snapshot/snapshotter.ts';
import { collectGarbage } from './gc.ts';
import type { AuthConfig, Images } from './image.ts';
import { watchLoop } from './loop-stalls.ts';
import { MAX_DOCUMENT_BYTES } from './manifest.ts';
import { pullImage } from './pull.ts';
import { Progress } from './progress.ts';
import type { TrackedPull } from './progress.ts';
import { nameOf, parseReference } from './reference.ts';
import { ImageGate } from './gate.ts';
import { Slots } from '../base/slots.ts';
import { ImageStore } from './store.ts';

const PULL_TIMEOUT_MS = 3_600_000;
const GC_TIMEOUT_MS = 600_000;

/** The image room, put together: store, pulls, garbage collection. */
export async function createImages(options: {
  config: Config;
  content: ContentStore;
  snapshotter: Snapshotter;
  log: Logger;
}): Promise<Images & { close(): Promise<void> }> {
  const { config, content, snapshotter, log } = options;
  const store = new ImageStore(join(config.root, 'images'), [config.image.pauseImage, ...config.image.pinned]);
  await store.load(log);
  const gate = new ImageGate();
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
  };

  // Those who ask while one waits for pulls to end are served by it.
  let isWaiting = false;
  let isHeld = false;
  const collect = (): void => {
    if (isWaiting) return;
    isWaiting = true;
    tasks.start('collect images', async () => {
      using _ = await gate.exclusive();
      isWaiting = false;
      isHeld = await collectGarbage(newOp('collect images', { log, timeoutMs: GC_TIMEOUT_MS }), deps);
    });
  };
  collect();

  return {
    find: (ref) => store.find(ref),
    list: () => store.list(),
    async pull(op, ref, auth) {
      const reference = parseReference(ref);
      const credentials = credentialsOf(auth, reference.host);
      // Callers with the same credentials share a pull; it goes on when one of them goes away.
      const key = JSON.stringify([reference, credentials]);
      const pulled = pulls.run(key, async () => {
        using _ = await gate.shared();
        const name = nameOf(reference);
        return await deps.progress.track(name, (pull) =>
          logged(op, pull, pullImage(deps, detached(op, PULL_TIMEOUT_MS), { reference, credentials, pull })),
        );
      });
      return orOver(op, pulled);
    },
    async remove(_op: Op, ref) {
      const image = store.find(ref);
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
      let [usedBytes, inodesUsed] = [0, 0];
      for await (const { sizeBytes } of content.list()) {
        usedBytes += sizeBytes;
        inodesUsed++;
      }
      for (const chainId of await snapshotter.layers()) {
        const usage = await snapshotter.layerUsage(chainId);
        usedBytes += usage.sizeBytes;
        inodesUsed += usage.inodes;
      }
      return { mountpoint: snapshotter.root(), usedBytes, inodesUsed };
    },
    async rawConfig(id) {
      if (store.find(id) === undefined) throw notFound('image', id);
      return (await content.read(id, MAX_DOCUMENT_BYTES)).toString('utf8');
    },
    pulls: () => deps.progress.list(),
    close: () => tasks.drain(),
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
