import { statfsSync } from 'node:fs';
import { attachLoop } from '../../os/loop.ts';
import { mount } from '../../os/mount.ts';
import { MNT_DETACH, umount2, UMOUNT_NOFOLLOW } from '../../os/syscalls.ts';
import { errnoOf } from '../../base/errors.ts';

/** What the kernel reads an index and its tar from: the files themselves (Linux 6.12), or loop devices. */
export interface Backing {
  readonly kind: 'file' | 'loop';
  /** Past the page cache of the files, which would hold everything a second time. */
  readonly direct: boolean;
}

export const EROFS_MAGIC = 0xe0f5e1e2;

export const isMounted = (target: string): boolean => statfsSync(target).type === EROFS_MAGIC;

/** The error has the kernel's errno. */
export function mountIndex({ index, tar, target }: { index: string; tar: string; target: string }, backing: Backing): void {
  if (backing.kind === 'file') {
    mount({ type: 'erofs', source: index, target, flags: ['ro'], data: `device=${tar}${backing.direct ? ',directio' : ''}` });
    return;
  }
  // The mount holds the devices; without one they go at the end of this block.
  using indexLoop = attachLoop(index, { directIo: false });
  using tarLoop = attachLoop(tar, { directIo: backing.direct });
  mount({ type: 'erofs', source: indexLoop.device, target, flags: ['ro'], data: `device=${tarLoop.device}` });
}

/** All that is mounted there, at once; overlays that stand on it keep it. Nothing mounted, or nothing there, is fine. */
export function detachIndex(target: string): void {
  for (;;) {
    try {
      umount2(target, MNT_DETACH | UMOUNT_NOFOLLOW);
    } catch (error) {
      if (['EINVAL', 'ENOENT', 'ENOTDIR'].includes(errnoOf(error) ?? '')) return;
      throw error;
    }
  }
}
