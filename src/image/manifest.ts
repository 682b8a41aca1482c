import type { Digest } from '../base/digest.ts';
import { isDigest } from '../base/digest.ts';
import { ClassifiedError } from '../base/errors.ts';
import type { ImageConfig } from './image.ts';

/** OCI image-spec descriptor; Docker's is the same. */
export interface Descriptor {
  readonly mediaType: string;
  readonly digest: Digest;
  readonly sizeBytes: number;
}

export interface Manifest {
  readonly kind: 'manifest';
  readonly config: Descriptor;
  readonly layers: readonly Descriptor[];
}

export interface Index {
  readonly kind: 'index';
  readonly manifests: ReadonlyArray<Descriptor & { readonly platform: Platform | undefined }>;
}

export interface Platform {
  readonly os: string;
  readonly architecture: string;
  readonly variant: string;
}

export const MANIFEST_TYPES = {
  ociManifest: 'application/vnd.oci.image.manifest.v1+json',
  ociIndex: 'application/vnd.oci.image.index.v1+json',
  dockerManifest: 'application/vnd.docker.distribution.manifest.v2+json',
  dockerList: 'application/vnd.docker.distribution.manifest.list.v2+json',
} as const;

export const MAX_DOCUMENT_BYTES = 4 * 1024 * 1024;
const MAX_LAYERS = 500;

const bad = (what: string): ClassifiedError => new ClassifiedError('dataLoss', `image manifest: ${what}`);

const object = (value: unknown, what: string): Record<string, unknown> => {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) throw bad(`${what} is not an object`);
  return value as Record<string, unknown>;
};

const list = (value: unknown, what: string): unknown[] => {
  if (!Array.isArray(value)) throw bad(`${what} is not a list`);
  return value;
};

export function parseJson(bytes: Uint8Array, what: string): unknown {
  try {
    return JSON.parse(Buffer.from(bytes).toString('utf8')) as unknown;
  } catch {
    throw bad(`${what} is not JSON`);
  }
}

function descriptor(value: unknown, what: string): Descriptor {
  const { mediaType, digest, size } = object(value, what);
  if (typeof mediaType !== 'string') throw bad(`${what} has no media type`);
  if (typeof digest !== 'string' || !isDigest(digest)) throw bad(`${what} has no sha256 digest`);
  if (typeof size !== 'number' || !Number.isSafeInteger(size) || size < 0) throw bad(`${what} has no valid size`);
  return { mediaType, digest, sizeBytes: size };
}

/** A document has one meaning: what is a manifest and an index at once, or not what it was served as, is refused (S14). */
export function parseManifest(value: unknown, servedAs: string): Manifest | Index {
  const document = object(value, 'the document');
  const { mediaType, layers, config, manifests, schemaVersion } = document;
  if (schemaVersion === 1)
    throw new ClassifiedError('unimplemented', 'image manifest: it is of Docker schema 1, which nobody pushes any more: push it anew');
  if (mediaType !== undefined && typeof mediaType === 'string' && servedAs in KINDS && mediaType !== servedAs)
    throw bad(`it says ${mediaType} and was served as ${servedAs}`);
  const type = typeof mediaType === 'string' ? mediaType : servedAs;
  const kind = KINDS[type] ?? (manifests === undefined ? 'manifest' : 'index');
  if ((layers !== undefined || config !== undefined) && manifests !== undefined) throw bad('it is a manifest and an index at once');
  if (kind === 'index') {
    return {
      kind,
      manifests: list(manifests, 'manifests').map((each, i) => ({
        ...descriptor(each, `manifests[${i}]`),
        platform: platformOf(object(each, `manifests[${i}]`)['platform']),
      })),
    };
  }
  const layerList = list(layers, 'layers');
  if (layerList.length > MAX_LAYERS) throw bad(`it has ${layerList.length} layers, the limit is ${MAX_LAYERS}`);
  return { kind, config: descriptor(config, 'config'), layers: layerList.map((each, i) => descriptor(each, `layers[${i}]`)) };
}

const KINDS: Readonly<Record<string, 'manifest' | 'index' | undefined>> = {
  [MANIFEST_TYPES.ociManifest]: 'manifest',
  [MANIFEST_TYPES.dockerManifest]: 'manifest',
  [MANIFEST_TYPES.ociIndex]: 'index',
  [MANIFEST_TYPES.dockerList]: 'index',
};

function platformOf(value: unknown): Platform | undefined {
  if (typeof value !== 'object' || value === null) return undefined;
  const { os, architecture, variant } = value as Record<string, unknown>;
  return { os: String(os ?? ''), architecture: String(architecture ?? ''), variant: String(variant ?? '') };
}

const HOST_PLATFORMS: Readonly<Record<string, Platform>> = {
  x64: { os: 'linux', architecture: 'amd64', variant: '' },
  arm64: { os: 'linux', architecture: 'arm64', variant: 'v8' },
  arm: { os: 'linux', architecture: 'arm', variant: 'v7' },
};

export const hostPlatform = (): Platform => HOST_PLATFORMS[process.arch] ?? { os: 'linux', architecture: process.arch, variant: '' };

/** The entry for this machine: the exact variant, else none given, else (arm) the highest below it or (amd64) the lowest. notFound tells what there is. */
export function choosePlatform(index: Index, wanted: Platform): Descriptor {
  const variantOf = (entry: Index['manifests'][number]): string => entry.platform?.variant ?? '';
  const fits = index.manifests
    .filter(({ platform }) => platform?.os === wanted.os && platform.architecture === wanted.architecture)
    .sort((a, b) => Number(variantOf(a) > variantOf(b)) - Number(variantOf(a) < variantOf(b)));
  const chosen =
    fits.find((each) => variantOf(each) === wanted.variant) ??
    fits.find((each) => variantOf(each) === '') ??
    (wanted.variant === '' ? fits[0] : fits.findLast((each) => variantOf(each) < wanted.variant)) ??
    (index.manifests.length === 1 && index.manifests[0]?.platform === undefined ? index.manifests[0] : undefined);
  if (chosen) return chosen;
  const there = index.manifests.map(({ platform }) =>
    platform ? [platform.os, platform.architecture, platform.variant].filter(Boolean).join('/') : 'unknown',
  );
  throw new ClassifiedError(
    'notFound',
    `the image has nothing for ${wanted.os}/${wanted.architecture}; it has ${there.join(', ') || 'nothing'}`,
  );
}

/** Names and types of the config's `config`; values stay what they are, hostile (S1). */
export function parseConfig(value: unknown): { config: ImageConfig; diffIds: readonly Digest[] } {
  const { config, rootfs } = object(value, 'the config');
  const inner = typeof config === 'object' && config !== null ? (config as Record<string, unknown>) : {};
  const diffIds = list(object(rootfs ?? {}, 'rootfs')['diff_ids'] ?? [], 'diff_ids').map((id) => {
    if (typeof id !== 'string' || !isDigest(id)) throw bad('a diff_id is not a sha256 digest');
    return id;
  });
  const text = (key: string): string => (typeof inner[key] === 'string' ? inner[key] : '');
  const texts = (key: string): string[] =>
    Array.isArray(inner[key]) ? (inner[key] as unknown[]).filter((each) => typeof each === 'string') : [];
  const table = (key: string): Record<string, unknown> =>
    typeof inner[key] === 'object' && inner[key] !== null ? (inner[key] as Record<string, unknown>) : {};
  return {
    diffIds,
    config: {
      user: text('User'),
      env: texts('Env'),
      entrypoint: texts('Entrypoint'),
      cmd: texts('Cmd'),
      workingDir: text('WorkingDir'),
      stopSignal: text('StopSignal'),
      volumes: Object.keys(table('Volumes')),
      labels: Object.fromEntries(Object.entries(table('Labels')).map(([key, each]) => [key, String(each)])),
    },
  };
}
