import { chmodSync, mkdirSync, rmSync, statfsSync } from 'node:fs';
import type { Op } from '../base/op.ts';
import type { Digest } from '../base/digest.ts';
import { ClassifiedError, errnoOf } from '../base/errors.ts';
import { makeDirsInRoot } from '../os/in-root.ts';
import { IdmappedView } from '../os/idmapped-view.ts';
import { contextOption } from '../os/selinux.ts';
import { mount, umount, umountApart } from '../os/mount.ts';
import { IDMAPPED_DIR } from '../snapshot/snapshotter.ts';
import type { MountSpec, RootfsIdmap, Snapshotter } from '../snapshot/snapshotter.ts';
import type { ContainerPaths } from './record.ts';

/** A writable snapshot of the image, mounted at the bundle's rootfs. */
export async function mountRootfs(
  snapshotter: Snapshotter,
  op: Op,
  paths: ContainerPaths,
  source: { key: string; topLayer: Digest | undefined; idmap: RootfsIdmap | undefined; mountLabel: string | undefined },
): Promise<void> {
  mkdirSync(paths.rootfs, { recursive: true, mode: 0o700 });
  // A process with another uid has to pass through on its way to the rootfs; only the bundle's content is private.
  chmodSync(paths.bundle, 0o711);
  mountSnapshot(await snapshotter.prepare(op, source.key, source.topLayer, source.idmap), {
    target: paths.rootfs,
    layers: paths.layers,
    mountLabel: source.mountLabel,
  });
}

/** Nothing else happens meanwhile: `layers` is there only within this call, and one at a time. unavailable: somebody unmounted a layer since `prepare`. */
export function mountSnapshot(
  specs: readonly MountSpec[],
  to: { target: string; layers: string; mountLabel?: string | undefined; flags?: readonly string[] },
): void {
  for (const { type, source, flags, data, idmapped, mounted } of specs) {
    using view = idmapped && new IdmappedView({ ...idmapped, at: to.layers });
    const seen = (text: string): string => (view ? text.replaceAll(IDMAPPED_DIR, view.path) : text);
    const lost = mounted?.dirs.find((dir) => statfsSync(seen(dir)).type !== mounted.as);
    if (lost !== undefined)
      throw new ClassifiedError('unavailable', `mount ${to.target}: ${lost.replace(IDMAPPED_DIR, idmapped?.dir ?? '')} is not mounted`);
    // A bind mount has the labels of its source.
    const label = to.mountLabel === undefined || type === 'bind' ? [] : [contextOption(to.mountLabel)];
    const options = [seen(data), ...label].filter(Boolean).join(',');
    mount({ type, source: seen(source), target: to.target, flags: [...flags, ...(to.flags ?? [])], data: options });
  }
}

/** Of an image (S3): each costs a few system calls. */
const MAX_VOLUMES = 1024;

/**
 * The image's VOLUME paths are directories of the writable rootfs; those that are missing are made. The paths are the image's word: they are resolved inside
 * its tree (S2, CVE-2022-23648), and one that can't be made is left out, as the image would be without it.
 */
export function makeVolumeDirs(op: Op, rootfs: string, volumes: readonly string[], owner: { uid: number; gid: number }): void {
  const odd = volumes.slice(MAX_VOLUMES).concat(volumes.slice(0, MAX_VOLUMES).filter((path) => !makeVolumeDir(rootfs, path, owner)));
  if (odd.length > 0) op.log.warn({ volumes: odd.slice(0, 10), count: odd.length }, 'volume paths of the image were left out');
}

function makeVolumeDir(rootfs: string, path: string, owner: { uid: number; gid: number }): boolean {
  if (!path.startsWith('/') || path.includes('\0')) return false;
  try {
    return makeDirsInRoot(rootfs, path, owner);
  } catch (error) {
    if (errnoOf(error) === undefined) throw error;
    return false;
  }
}

/** Nobody looks at it once its container has ended; what was written stays in the snapshot. Idempotent. */
export async function umountRootfs(op: Op, paths: ContainerPaths): Promise<void> {
  // Left there by a daemon that was killed; what is removed later must not reach the layers.
  await umount(paths.layers);
  await umountApart(op, paths.rootfs);
}

/** Undo of `mountRootfs`, and the bundle with it. Idempotent. On error what is still mounted, and all below it, is left for the next try (R28). */
export async function removeRootfs(snapshotter: Snapshotter, op: Op, paths: ContainerPaths, key: string): Promise<void> {
  await umountRootfs(op, paths);
  rmSync(paths.bundle, { recursive: true, force: true });
  await snapshotter.remove(op, key);
}
