import { readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { assert } from '../base/assert.ts';
import { errnoOf } from '../base/errors.ts';
import { MNT_DETACH, mount2, MS, umount2, UMOUNT_NOFOLLOW } from './syscalls.ts';

export interface MountRequest {
  readonly type: string;
  readonly source: string;
  readonly target: string;
  /** Names as in mount(8): `ro`, `nosuid`, `bind`, `rec` ... */
  readonly flags?: readonly string[];
  /** What the filesystem itself reads, comma-separated. */
  readonly data?: string;
}

/** mount(2). Only for paths of our own: what a pod chose goes to a killable process (R2). */
export function mount(request: MountRequest): void {
  const flags = (request.flags ?? []).reduce((bits, name) => {
    const bit = MS[name];
    assert(bit !== undefined, `mount flag ${name} is known`);
    return bits | bit;
  }, 0);
  mount2(request.source, request.target, { type: request.type, flags, data: request.data ?? '' });
}

export function bindMount(source: string, target: string, options: { readOnly?: boolean; recursive?: boolean } = {}): void {
  const recursive = options.recursive === true ? ['rec'] : [];
  mount({ type: '', source, target, flags: ['bind', ...recursive] });
  // The kernel takes a bind mount's flags only when it is mounted again.
  if (options.readOnly === true) mount({ type: '', source: '', target, flags: ['bind', 'remount', 'ro'] });
}

const BUSY_TRIES = 5;
const BUSY_WAIT_MS = 20;

/**
 * Takes every mount off `target`: a busy one is tried again and at last detached, so that the path is free when this returns (R28). Nothing mounted,
 * or nothing there, is fine.
 */
export async function umount(target: string, options: { detach?: boolean } = {}): Promise<void> {
  for (let busy = 0; ;) {
    const flags = options.detach === true || busy >= BUSY_TRIES ? MNT_DETACH : 0;
    try {
      umount2(target, UMOUNT_NOFOLLOW | flags);
    } catch (error) {
      const code = errnoOf(error);
      // EINVAL: not a mountpoint (any more).
      if (code === 'EINVAL' || code === 'ENOENT' || code === 'ENOTDIR') return;
      if (code !== 'EBUSY') throw error;
      busy++;
      await sleep(BUSY_WAIT_MS);
    }
  }
}

/** Mountpoints at or below `prefix`, deepest first. */
export function mountsUnder(prefix: string): string[] {
  const targets = readFileSync('/proc/self/mountinfo', 'utf8')
    .split('\n')
    .flatMap((line) => line.split(' ')[4] ?? [])
    .map((path) => path.replace(/\\([0-7]{3})/g, (_, octal: string) => String.fromCharCode(parseInt(octal, 8))));
  return targets.filter((path) => path === prefix || path.startsWith(`${prefix}/`)).sort((a, b) => b.length - a.length);
}
