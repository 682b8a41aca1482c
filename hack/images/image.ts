import type { Layer } from './tree.ts';
import { digestOf } from './tree.ts';

/** What the image says of its process, in the OCI config's own words. */
export interface ImageProcess {
  readonly Cmd?: readonly string[];
  readonly Entrypoint?: readonly string[];
  readonly Env?: readonly string[];
  readonly User?: string;
  readonly WorkingDir?: string;
  readonly StopSignal?: string;
  readonly Volumes?: Readonly<Record<string, object>>;
}

export type Format = 'oci' | 'docker';

export interface Manifest {
  readonly mediaType: string;
  readonly body: Buffer;
  readonly digest: string;
}

/** Everything that a registry needs to serve one image. Manifests come before what refers to them; the last one is what the tag names. */
export interface Image {
  readonly blobs: ReadonlyMap<string, Buffer>;
  readonly manifests: readonly Manifest[];
  readonly imageId: string;
}

/** The architecture in the words of images (and of Go). */
export const ARCHITECTURE: string = ({ x64: 'amd64', arm: 'arm' } as Record<string, string>)[process.arch] ?? process.arch;
const OTHER_ARCHITECTURE = ARCHITECTURE === 'arm64' ? 'amd64' : 'arm64';

const TYPES = {
  oci: {
    manifest: 'application/vnd.oci.image.manifest.v1+json',
    index: 'application/vnd.oci.image.index.v1+json',
    config: 'application/vnd.oci.image.config.v1+json',
    layer: {
      gzip: 'application/vnd.oci.image.layer.v1.tar+gzip',
      zstd: 'application/vnd.oci.image.layer.v1.tar+zstd',
      none: 'application/vnd.oci.image.layer.v1.tar',
    },
  },
  docker: {
    manifest: 'application/vnd.docker.distribution.manifest.v2+json',
    index: 'application/vnd.docker.distribution.manifest.list.v2+json',
    config: 'application/vnd.docker.container.image.v1+json',
    layer: {
      gzip: 'application/vnd.docker.image.rootfs.diff.tar.gzip',
      zstd: 'application/vnd.docker.image.rootfs.diff.tar.zstd',
      none: 'application/vnd.docker.image.rootfs.diff.tar',
    },
  },
} as const;

/** With `indexed`, an index whose first entry is of another architecture, so that whoever takes the first one is found out. */
export function imageOf(options: {
  readonly layers: readonly Layer[];
  readonly process?: ImageProcess;
  readonly format?: Format;
  readonly indexed?: boolean;
}): Image {
  const format = options.format ?? 'oci';
  const blobs = new Map<string, Buffer>(options.layers.map(({ digest, blob }) => [digest, blob]));
  const one = (architecture: string): { manifest: Manifest; imageId: string } => {
    const config = Buffer.from(
      JSON.stringify({
        architecture,
        os: 'linux',
        created: '2026-01-01T00:00:00Z',
        config: { Env: ['PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin'], ...options.process },
        rootfs: { type: 'layers', diff_ids: options.layers.map(({ diffId }) => diffId) },
        history: options.layers.map(() => ({ created: '2026-01-01T00:00:00Z', created_by: 'hack/images' })),
      }),
    );
    const imageId = digestOf(config);
    blobs.set(imageId, config);
    const manifest = manifestOf(TYPES[format].manifest, {
      config: { mediaType: TYPES[format].config, digest: imageId, size: config.length },
      layers: options.layers.map(({ compression, digest, blob }) => ({
        mediaType: TYPES[format].layer[compression],
        digest,
        size: blob.length,
      })),
    });
    return { manifest, imageId };
  };
  const host = one(ARCHITECTURE);
  if (options.indexed !== true) return { blobs, manifests: [host.manifest], imageId: host.imageId };
  const other = one(OTHER_ARCHITECTURE);
  const entry = ({ mediaType, digest, body }: Manifest, architecture: string): unknown => ({
    mediaType,
    digest,
    size: body.length,
    platform: { os: 'linux', architecture, ...(architecture === 'arm64' ? { variant: 'v8' } : {}) },
  });
  const index = manifestOf(TYPES[format].index, {
    manifests: [entry(other.manifest, OTHER_ARCHITECTURE), entry(host.manifest, ARCHITECTURE)],
  });
  return { blobs, manifests: [other.manifest, host.manifest, index], imageId: host.imageId };
}

function manifestOf(mediaType: string, fields: object): Manifest {
  const body = Buffer.from(JSON.stringify({ schemaVersion: 2, mediaType, ...fields }));
  return { mediaType, body, digest: digestOf(body) };
}
