import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { invalidArgument, notFound, wrap } from '../base/errors.ts';
import type { Op } from '../base/op.ts';
import type { ContainerConfig__Output } from '../gen/cri/runtime/v1/ContainerConfig.ts';
import type { Image } from '../image/image.ts';
import { directoryInRoot } from '../os/in-root.ts';
import { umount } from '../os/mount.ts';
import type { ContainerDeps } from './deps.ts';
import type { MountSpec, RootfsIdmap } from '../snapshot/snapshotter.ts';
import type { ContainerRecord, ImageVolume } from './record.ts';
import { containerPaths } from './record.ts';
import { mountSnapshot } from './rootfs.ts';

type Deps = Pick<ContainerDeps, 'images' | 'snapshotter' | 'stateDir'>;
type Holder = Pick<ContainerRecord, 'id' | 'config' | 'imageVolumes'>;

/** Of every mount that names an image, the image: kubelet has pulled it before. notFound names the field. */
export function imageVolumesOf(images: Deps['images'], config: ContainerConfig__Output): ImageVolume[] {
  return config.mounts.flatMap(({ image }, index): ImageVolume[] => {
    if (image === null || image.image === '') return [];
    return [{ index, imageId: imageOf(images, image.image, index).id }];
  });
}

function imageOf(images: Deps['images'], ref: string, index: number): Image {
  const image = images.find(ref);
  if (image === undefined) throw wrap(`config.mounts[${index}].image.image`, notFound('image', ref));
  return image;
}

/**
 * A read-only view of each image, mounted in the bundle; while it exists no collection takes the layers. Resolves to the host paths to bind, by position in `config.mounts`:
 * the view itself, or the directory `image_sub_path` inside it. invalidArgument when the image has no such directory.
 */
export async function mountImageVolumes(
  deps: Deps,
  op: Op,
  record: Holder,
  { idmap, mountLabel }: { idmap: RootfsIdmap | undefined; mountLabel: string | undefined },
): Promise<ReadonlyMap<number, string>> {
  const sources = new Map<number, string>();
  for (const { index, imageId } of record.imageVolumes ?? []) {
    const target = targetOf(deps, record.id, index);
    const { topLayer } = imageOf(deps.images, imageId, index);
    try {
      await mkdir(target, { recursive: true, mode: 0o711 });
      const specs = await deps.snapshotter.view(op, keyOf(record.id, index), topLayer, idmap);
      const { layers } = containerPaths(deps.stateDir, record.id);
      mountSnapshot(await labellable(specs, target, mountLabel), { target, layers, mountLabel, flags: ['nosuid', 'nodev'] });
    } catch (error) {
      // The word that kubelet looks for (cri-api, pkg/errors).
      throw wrap(`ImageVolumeMountFailed: config.mounts[${index}].image`, error);
    }
    sources.set(index, sourceOf(target, record, index));
  }
  return sources;
}

/** An image of one layer is bound, and a bind mount can't be given a label: then an overlay stands in its place, with an empty directory for its second layer. */
export async function labellable(
  specs: readonly MountSpec[],
  target: string,
  mountLabel: string | undefined,
): Promise<readonly MountSpec[]> {
  const [first, ...others] = specs;
  if (mountLabel === undefined || first?.type !== 'bind') return specs;
  const empty = `${target}.empty`;
  await mkdir(empty, { recursive: true, mode: 0o755 });
  return [{ ...first, type: 'overlay', source: 'overlay', flags: ['ro'], data: `lowerdir=${first.source}:${empty}` }, ...others];
}

// Nobody can write to the view, so what was resolved once stays what it is.
function sourceOf(view: string, { config }: Holder, index: number): string {
  const subPath = config.mounts[index]?.imageSubPath ?? '';
  const source = directoryInRoot(view, subPath === '' ? '.' : subPath);
  if (source === undefined) {
    throw invalidArgument(
      `config.mounts[${index}].image_sub_path`,
      `ImageVolumeMountFailed: no directory ${JSON.stringify(subPath)} in the image`,
    );
  }
  return source;
}

/** Undo of `mountImageVolumes`. Idempotent, and a function of the id alone: a record that can't be read has views too. */
export async function removeImageVolumes(deps: Deps, op: Op, id: string): Promise<void> {
  for (const key of await deps.snapshotter.keys()) {
    if (!key.startsWith(keyOf(id, ''))) continue;
    await umount(targetOf(deps, id, key.slice(keyOf(id, '').length)));
    await deps.snapshotter.remove(op, key);
  }
}

const targetOf = (deps: Deps, id: string, index: number | string): string =>
  join(containerPaths(deps.stateDir, id).imageVolumes, String(index));

const keyOf = (id: string, index: number | ''): string => `${id}.image-volume-${index}`;
