import { chmod, mkdir, rm } from 'node:fs/promises';
import type { Op } from '../base/op.ts';
import type { Digest } from '../base/digest.ts';
import { mount, umount } from '../os/mount.ts';
import type { Snapshotter } from '../snapshot/snapshotter.ts';
import type { ContainerPaths } from './record.ts';

/** A writable snapshot of the image, mounted at the bundle's rootfs. */
export async function mountRootfs(
  snapshotter: Snapshotter,
  op: Op,
  paths: ContainerPaths,
  source: { key: string; topLayer: Digest | undefined },
): Promise<void> {
  await mkdir(paths.rootfs, { recursive: true, mode: 0o700 });
  // A process with another uid has to pass through on its way to the rootfs; only the bundle's content is private.
  await chmod(paths.bundle, 0o711);
  for (const { type, source: from, flags, data } of await snapshotter.prepare(op, source.key, source.topLayer)) {
    mount({ type, source: from, target: paths.rootfs, flags: [...flags], data });
  }
}

/** Undo of `mountRootfs`, and the bundle with it. Idempotent. */
export async function removeRootfs(snapshotter: Snapshotter, op: Op, paths: ContainerPaths, key: string): Promise<void> {
  await umount(paths.rootfs);
  await rm(paths.bundle, { recursive: true, force: true });
  await snapshotter.remove(op, key);
}
