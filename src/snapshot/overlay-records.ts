import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import type { Digest } from '../base/digest.ts';
import { isDigest } from '../base/digest.ts';
import { messageOf, notFound } from '../base/errors.ts';
import type { Logger } from '../base/log.ts';
import { readJson } from '../os/atomic-file.ts';
import type { DiskUsage } from '../os/disk-usage.ts';

export const LAYER_RECORD = 'layer.json';
export const ACTIVE_RECORD = 'snapshot.json';

/** A tar that is kept as it is, under its diffID. */
export interface StoredTar {
  readonly diffId: Digest;
  /** Of the tar; its file has zeros behind it, up to a whole page. */
  readonly sizeBytes: number;
  /** Name of that file. */
  readonly file: string;
}

/** `layers/<name>/index`, complete. */
export interface StoredIndex {
  readonly sizeBytes: number;
  readonly crc32: number;
}

/** `layers/<name>/layer.json`. */
export interface Layer {
  readonly version: 1;
  readonly chainId: Digest;
  readonly parent: Digest | null;
  readonly usage: DiskUsage;
  /** Directory below layers/: a number, because mount(2) takes one page of options and a chainId has 64 digits. */
  readonly name: string;
  /** It hides all of the layers below, which overlayfs has no mark for on a layer's root. */
  readonly opaqueRoot: boolean;
  /** Of a snapshotter that keeps tars. */
  readonly tar?: StoredTar | undefined;
  /** Of the same; older records have none. */
  readonly index?: StoredIndex | undefined;
}

/** `active/<key>/snapshot.json`. */
export interface Active {
  readonly version: 1;
  readonly key: string;
  readonly parent: Digest | null;
  readonly readOnly: boolean;
}

type Fields = Readonly<Record<string, unknown>>;

function fieldsOf(value: unknown): Fields {
  if (typeof value !== 'object' || value === null || !('version' in value) || value.version !== 1)
    throw new Error('not a record of version 1');
  return value as Fields;
}

function parentIn({ parent }: Fields): Digest | null {
  if (parent !== null && !(typeof parent === 'string' && isDigest(parent))) throw new Error('parent is not a digest');
  return parent;
}

function parseLayer(value: unknown, name: string): Layer {
  const fields = fieldsOf(value);
  const { chainId, usage } = fields;
  if (typeof chainId !== 'string' || !isDigest(chainId)) throw new Error('chainId is not a digest');
  const { sizeBytes, inodes } = (usage ?? {}) as Fields;
  if (typeof sizeBytes !== 'number' || typeof inodes !== 'number') throw new Error('usage is not given');
  const [parent, tar, index] = [parentIn(fields), tarIn(fields), indexIn(fields)];
  return { version: 1, chainId, parent, usage: { sizeBytes, inodes }, name, opaqueRoot: fields['opaqueRoot'] === true, tar, index };
}

function indexIn({ index }: Fields): StoredIndex | undefined {
  if (index === undefined) return undefined;
  const { sizeBytes, crc32 } = (index ?? {}) as Fields;
  if (typeof sizeBytes !== 'number' || typeof crc32 !== 'number') throw new Error('index is not given');
  return { sizeBytes, crc32 };
}

function tarIn({ tar }: Fields): StoredTar | undefined {
  if (tar === undefined) return undefined;
  const { diffId, sizeBytes, file } = (tar ?? {}) as Fields;
  if (typeof diffId !== 'string' || !isDigest(diffId) || typeof sizeBytes !== 'number') throw new Error('tar is not given');
  if (typeof file !== 'string' || !/^[0-9a-f.]+$/.test(file)) throw new Error('tar has no file');
  return { diffId, sizeBytes, file };
}

function parseActive(value: unknown, key: string): Active {
  const fields = fieldsOf(value);
  if (fields['key'] !== key) throw new Error('it names another key');
  return { version: 1, key, parent: parentIn(fields), readOnly: fields['readOnly'] === true };
}

/** Each record in isolation (R6): `broken` are directory names whose record can't be read. */
export interface Loaded<T> {
  readonly records: readonly T[];
  readonly broken: readonly string[];
}

async function load<T>(
  dir: string,
  file: string,
  options: { log: Logger; parse: (value: unknown, name: string) => T },
): Promise<Loaded<T>> {
  const records: T[] = [];
  const broken: string[] = [];
  for (const name of await readdir(dir)) {
    try {
      records.push(options.parse(await readJson(join(dir, name, file)), name));
    } catch (error) {
      options.log.warn({ path: join(dir, name), err: messageOf(error) }, 'a snapshot record can not be read');
      broken.push(name);
    }
  }
  return { records, broken };
}

export const loadLayers = (dir: string, log: Logger): Promise<Loaded<Layer>> => load(dir, LAYER_RECORD, { log, parse: parseLayer });
export const loadActives = (dir: string, log: Logger): Promise<Loaded<Active>> => load(dir, ACTIVE_RECORD, { log, parse: parseActive });

type Layers = ReadonlyMap<Digest, Layer>;

/** `top` and what it stands on, topmost first, as overlayfs wants them; undefined when one is missing. */
function chainOf(layers: Layers, top: Digest | null): Layer[] | undefined {
  const chain: Layer[] = [];
  for (let chainId = top; chainId !== null;) {
    const layer = layers.get(chainId);
    // More than there are: a damaged record leads back up.
    if (layer === undefined || chain.length >= layers.size) return undefined;
    chain.push(layer);
    chainId = layer.parent;
  }
  return chain;
}

export const isWhole = (layers: Layers, top: Digest): boolean => chainOf(layers, top) !== undefined;

/** Those of the chain that can be seen: what is below an opaque root can't. notFound. */
export function visibleLayers(layers: Layers, top: Digest | null): Layer[] {
  const chain = chainOf(layers, top);
  if (chain === undefined) throw notFound('layer', top ?? '');
  const last = chain.findIndex(({ opaqueRoot }) => opaqueRoot);
  return last < 0 ? chain : chain.slice(0, last + 1);
}
