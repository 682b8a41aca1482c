import { readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { assert } from '../base/assert.ts';
import { ClassifiedError, errnoOf, wrap } from '../base/errors.ts';
import type { Op } from '../base/op.ts';
import { throwIfOver, within } from '../base/op.ts';
import { run } from './spawn.ts';
import { isMountRoot, MNT_DETACH, mount2, MS, setReadOnly, umount2, UMOUNT_NOFOLLOW } from './syscalls.ts';

export interface MountRequest {
  readonly type: string;
  readonly source: string;
  readonly target: string;
  /** Names as in mount(8): `ro`, `nosuid`, `bind`, `rec` ... */
  readonly flags?: readonly string[];
  /** What the filesystem itself reads, comma-separated. */
  readonly data?: string;
}

const DEFAULTS = new Set(['rw', 'suid', 'dev', 'exec', 'async', 'atime', 'diratime', 'defaults']);

function flagBits(names: readonly string[]): number {
  return names.reduce((bits, name) => {
    if (DEFAULTS.has(name)) return bits;
    // rbind, rprivate, rslave ...
    const recursive = name.startsWith('r') && MS[name] === undefined;
    const bit = MS[recursive ? name.slice(1) : name];
    assert(bit !== undefined, `mount flag ${name} is known`);
    return bits | bit | (recursive ? (MS['rec'] ?? 0) : 0);
  }, 0);
}

/** mount(2) copies one page, its final NUL included, and leaves out the rest. */
export const MAX_DATA_BYTES = 4095;

/**
 * mount(2). Only for paths of our own: what a pod chose goes to a killable process (R2). The error has the kernel's errno; resourceExhausted: `data` doesn't
 * fit.
 */
export function mount(request: MountRequest): void {
  const dataBytes = Buffer.byteLength(request.data ?? '');
  if (dataBytes > MAX_DATA_BYTES)
    throw new ClassifiedError('resourceExhausted', `mount ${request.target}: its options take ${dataBytes} bytes`);
  const flags = flagBits(request.flags ?? []);
  mount2(request.source, request.target, { type: request.type, flags, data: request.data ?? '' });
}

/** Nothing is mounted when it fails. `readOnly` leaves every other attribute of the source's mount, and with `recursive` it reaches the mounts below. */
export function bindMount(source: string, target: string, options: { readOnly?: boolean; recursive?: boolean } = {}): void {
  const recursive = options.recursive === true;
  mount({ type: '', source, target, flags: [recursive ? 'rbind' : 'bind'] });
  if (options.readOnly !== true) return;
  try {
    setReadOnly(target, recursive);
  } catch (error) {
    umount2(target, MNT_DETACH | UMOUNT_NOFOLLOW);
    throw error;
  }
}

const BUSY_TRIES = 5;
const BUSY_WAIT_MS = 20;

/**
 * Takes every mount off `target`: a busy one is tried again and at last detached, so that the path is free when this returns (R28). Nothing mounted,
 * or nothing there, is fine.
 */
export async function umount(target: string, options: { detach?: boolean } = {}): Promise<void> {
  for (let busy = 0; ;) {
    const detach = options.detach === true || busy >= BUSY_TRIES;
    try {
      umount2(target, UMOUNT_NOFOLLOW | (detach ? MNT_DETACH : 0));
    } catch (error) {
      const code = errnoOf(error);
      // EINVAL: not a mountpoint (any more).
      if (code === 'EINVAL' || code === 'ENOENT' || code === 'ENOTDIR') return;
      if (code !== 'EBUSY' || detach) throw error;
      busy++;
      await sleep(BUSY_WAIT_MS);
    }
  }
}

const APART_TIMEOUT_MS = 10_000;

/**
 * The same for a filesystem that may have to write much or ask a dead server first: a short-lived process unmounts, and is killed when the operation ends or
 * ten seconds are over (DESIGN 3.3). What hangs or stays busy is detached. On error the mount may be there still; the caller notes it and comes back (R28).
 */
export async function umountApart(op: Op, target: string): Promise<void> {
  for (let busy = 0; isMountpoint(target);) {
    const detach = busy >= BUSY_TRIES;
    const failure = await umountOnce(op, target, detach);
    if (failure === undefined || !isMountpoint(target)) continue;
    throwIfOver(op);
    if (detach) throw failure;
    busy = failure.kind === 'deadlineExceeded' ? BUSY_TRIES : busy + 1;
    await sleep(BUSY_WAIT_MS);
  }
}

/** A look at the whole table of mounts, which is as long as there are pods, only where nothing else tells. */
function isMountpoint(path: string): boolean {
  try {
    return isMountRoot(path) ?? mountsUnder(path).includes(path);
  } catch (error) {
    if (errnoOf(error) === 'ENOENT' || errnoOf(error) === 'ENOTDIR') return false;
    return mountsUnder(path).includes(path);
  }
}

async function umountOnce(op: Op, target: string, detach: boolean): Promise<ClassifiedError | undefined> {
  try {
    const argv = ['umount', '--no-canonicalize', ...(detach ? ['--lazy'] : []), '--', target];
    const { exitCode, stderr } = await run(within(op, APART_TIMEOUT_MS), { argv });
    return exitCode === 0 ? undefined : new ClassifiedError('internal', `unmount ${target}: ${stderr.toString('utf8').trim()}`);
  } catch (error) {
    return wrap(`unmount ${target}`, error);
  }
}

/** Mountpoints at or below `prefix`, deepest first. */
export function mountsUnder(prefix: string): string[] {
  const targets = readFileSync('/proc/self/mountinfo', 'utf8')
    .split('\n')
    .flatMap((line) => line.split(' ')[4] ?? [])
    .map((path) => path.replace(/\\([0-7]{3})/g, (_, octal: string) => String.fromCharCode(parseInt(octal, 8))));
  return targets
    .filter((path) => path === prefix || path.startsWith(prefix === '/' ? prefix : `${prefix}/`))
    .sort((a, b) => b.length - a.length);
}
