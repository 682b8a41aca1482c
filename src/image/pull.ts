import { anySignal } from '../base/any-signal.ts';
import { assert } from '../base/assert.ts';
import type { Digest } from '../base/digest.ts';
import { chainIdOf } from '../base/digest.ts';
import { ClassifiedError, kindOf, messageOf } from '../base/errors.ts';
import type { Op } from '../base/op.ts';
import { throwIfOver } from '../base/op.ts';
import type { SingleFlight } from '../base/single-flight.ts';
import type { Config } from '../config/config.ts';
import type { ContentStore, Ingest } from '../content/content.ts';
import type { Credentials } from '../registry/auth.ts';
import type { BlobSink } from '../registry/blob-fetch.ts';
import { RepositoryClient } from '../registry/client.ts';
import type { Document } from '../registry/client.ts';
import type { Snapshotter } from '../snapshot/snapshotter.ts';
import type { Slots } from '../base/slots.ts';
import type { Holds } from './holds.ts';
import type { Descriptor, Index, Manifest } from './manifest.ts';
import { choosePlatform, hostPlatform, MANIFEST_TYPES, MAX_DOCUMENT_BYTES, parseConfig, parseJson, parseManifest } from './manifest.ts';
import type { Progress, TrackedPull } from './progress.ts';
import type { Reference } from './reference.ts';
import { digestName, tagName } from './reference.ts';
import type { ImageStore } from './store.ts';

export interface PullDeps {
  readonly config: Pick<Config, 'registry'>;
  readonly content: ContentStore;
  readonly snapshotter: Snapshotter;
  readonly store: ImageStore;
  /** One fetch per digest on the node (P5). */
  readonly fetches: SingleFlight<void>;
  /** Connections that download at the same time, of all pulls together. */
  readonly slots: Slots;
  readonly progress: Progress;
  readonly holds: Holds;
  /** Otherwise the blob of a layer that is there is not missed. */
  readonly keepsLayerBlobs: boolean;
}

export interface PullRequest {
  readonly reference: Reference;
  readonly credentials: Credentials | undefined;
  /** Told how far it is. */
  readonly pull: TrackedPull;
}

/**
 * Fetches an image and unpacks it: layers come in parallel, and each is unpacked while it comes. The record is written last, so an
 * interrupted pull leaves no image (R9). Returns the image's id.
 */
export async function pullImage(deps: PullDeps, op: Op, { reference, credentials, pull }: PullRequest): Promise<Digest> {
  const client = new RepositoryClient({
    hostsDir: deps.config.registry.hostsDir,
    registry: reference.host,
    repository: reference.repository,
    credentials,
  });

  op.span.stage('resolve');
  const { top, document, manifest } = await resolve(op, client, reference);

  const blobs = [...new Set([top.digest, document.digest, manifest.config.digest, ...manifest.layers.map(({ digest }) => digest)])];
  using _blobs = await deps.holds.hold(blobs);

  op.span.stage('config');
  const { config, diffIds } = await repairing(deps, op, [manifest.config], async () => {
    await fetchBlob(deps, op, client, { blob: manifest.config });
    return parseConfig(parseJson(await deps.content.read(manifest.config.digest, MAX_DOCUMENT_BYTES), 'the config'));
  });
  if (diffIds.length !== manifest.layers.length)
    throw new ClassifiedError('dataLoss', `image ${reference.repository}: ${manifest.layers.length} layers, ${diffIds.length} diff_ids`);

  op.span.stage('layers');
  pull.begin(manifest.layers);
  const chainIds = diffIds.reduce<Digest[]>((chain, diffId) => [...chain, chainIdOf(chain.at(-1), diffId)], []);
  using _layers = await deps.holds.hold(chainIds);
  const steps: LayerStep[] = manifest.layers.map((layer, i) => ({
    ...{ layer, diffId: at(diffIds, i), chainId: at(chainIds, i), parent: chainIds[i - 1] },
    reached: (state) => pull.reached(i, state),
  }));
  await repairing(deps, op, manifest.layers, () => fetchAndCommit(deps, op, client, steps));

  op.span.stage('record');
  for (const each of new Set([top, document])) await storeDocument(deps, op, each);
  const tag = reference.digest === undefined ? tagName(reference) : undefined;
  await deps.store.put({
    version: 1,
    id: manifest.config.digest,
    repoTags: tag === undefined ? [] : [tag],
    repoDigests: [digestName(reference, top.digest)],
    sizeBytes: [manifest.config, ...manifest.layers].reduce((sum, { sizeBytes }) => sum + sizeBytes, 0),
    topLayer: chainIds.at(-1) ?? null,
    chainIds,
    blobs,
    layers: manifest.layers.map(({ digest, sizeBytes }) => ({ digest, sizeBytes })),
    config,
  });
  return manifest.config.digest;
}

/** What fails over blobs that were there before and are damaged is done once more without them (R8: no damage outlives a pull). */
async function repairing<T>({ content }: PullDeps, op: Op, blobs: readonly Descriptor[], work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    if (kindOf(error) !== 'dataLoss') throw error;
    let isRepaired = false;
    for (const blob of blobs) {
      // By its digest alone: what a manifest says of its size says nothing about what others have.
      if ((await content.check(op, { digest: blob.digest }, 'full')) !== 'damaged') continue;
      op.log.error({ blob: blob.digest, err: messageOf(error) }, 'a blob is damaged: it is fetched anew');
      await content.remove(blob.digest);
      isRepaired = true;
    }
    if (!isRepaired) throw error;
    return await work();
  }
}

interface LayerStep {
  readonly layer: Descriptor;
  readonly diffId: Digest;
  readonly chainId: Digest;
  readonly parent: Digest | undefined;
  readonly reached: (state: 'unpacking' | 'ready') => void;
}

const at = <T>(list: readonly T[], index: number): T => {
  const value = list[index];
  assert(value !== undefined, `there is one for layer ${index}`);
  return value;
};

/**
 * Layers are fetched side by side and unpacked side by side (P2), each while it is fetched (P3); they are begun in order, as the snapshotter wants parents
 * first. The first failure ends the others, and they are waited for: nothing of a pull goes on after it.
 */
async function fetchAndCommit(deps: PullDeps, op: Op, client: RepositoryClient, steps: readonly LayerStep[]): Promise<void> {
  const failed = new AbortController();
  const own: Op = { ...op, signal: anySignal([op.signal, failed.signal]) };
  const all: Array<Promise<void>> = [];
  const begun = (work: Promise<void>): Promise<void> => {
    all.push(work);
    work.catch((error: unknown) => failed.abort(error));
    return work;
  };
  for (const { layer, diffId, chainId, parent, reached } of steps) {
    if (!deps.keepsLayerBlobs && (await deps.snapshotter.hasLayer(chainId))) {
      reached('ready');
      continue;
    }
    const { promise, resolve, reject } = Promise.withResolvers<Ingest | undefined>();
    promise.catch(() => undefined);
    const done = begun(fetchBlob(deps, own, client, { blob: layer, began: resolve }).then(() => reached('unpacking')));
    done.then(() => resolve(undefined), reject);
    const source = { diffId, blobPath: deps.content.path(layer.digest), mediaType: layer.mediaType, fetch: { begun: promise, done } };
    void begun(deps.snapshotter.commitLayer(own, source, { parent, chainId }).then(() => reached('ready')));
  }
  await Promise.allSettled(all);
  if (failed.signal.aborted) throw failed.signal.reason as Error;
}

/** The document that the reference names, and the manifest for this machine, which it is or points to. */
async function resolve(
  op: Op,
  client: RepositoryClient,
  reference: Reference,
): Promise<{ top: Document; document: Document; manifest: Manifest }> {
  const accept = Object.values(MANIFEST_TYPES);
  const get = (name: string): Promise<Document> => client.manifest(op, name, { accept, maxBytes: MAX_DOCUMENT_BYTES });
  const parse = ({ bytes, mediaType }: Document): Manifest | Index => parseManifest(parseJson(bytes, 'the document'), mediaType);
  const top = await get(reference.digest ?? reference.tag ?? 'latest');
  const parsed = parse(top);
  if (parsed.kind === 'manifest') return { top, document: top, manifest: parsed };
  const document = await get(choosePlatform(parsed, hostPlatform()).digest);
  const manifest = parse(document);
  if (manifest.kind !== 'manifest')
    throw new ClassifiedError('dataLoss', `image ${reference.repository}: an index points to another index`);
  return { top, document, manifest };
}

interface BlobFetch {
  readonly blob: Descriptor;
  /** Told where the blob comes into; not when somebody else fetches it, or it is there. */
  readonly began?: (ingest: Ingest) => void;
}

/** A fetch that another pull began and that failed is begun anew: that pull may have been given up, or had other credentials. */
async function fetchBlob(deps: PullDeps, op: Op, client: RepositoryClient, what: BlobFetch): Promise<void> {
  for (;;) {
    let isOwn = false;
    try {
      return await deps.fetches.run(what.blob.digest, () => {
        isOwn = true;
        return fetchOnce(deps, op, client, what);
      });
    } catch (error) {
      if (isOwn) throw error;
      throwIfOver(op);
    }
  }
}

async function fetchOnce(deps: PullDeps, op: Op, client: RepositoryClient, { blob, began }: BlobFetch): Promise<void> {
  if (await deps.content.has(blob)) return;
  using _ = await deps.slots.take();
  await using held = new AsyncDisposableStack();
  held.defer(() => deps.progress.fetchEnded(blob.digest));
  let ingest: Ingest | undefined;
  const begin = async (): Promise<BlobSink> => {
    await ingest?.[Symbol.asyncDispose]();
    const begun = held.use(await deps.content.ingest(blob));
    ingest = begun;
    began?.(begun);
    let bytes = 0;
    deps.progress.fetched(blob.digest, bytes);
    const took = (more: number): void => deps.progress.fetched(blob.digest, (bytes += more));
    return { ask: begun.ask, took, commit: () => begun.commit(op) };
  };
  await client.blob(op, { ...blob, begin, more: () => deps.slots.tryTake() });
}

async function storeDocument(deps: PullDeps, op: Op, { digest, bytes }: Document): Promise<void> {
  if ((await deps.content.check(op, { digest, sizeBytes: bytes.length }, 'quick')) === 'intact') return;
  await deps.content.put(op, { digest, bytes });
}
