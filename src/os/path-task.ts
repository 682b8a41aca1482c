import { ClassifiedError } from '../base/errors.ts';
import type { Op } from '../base/op.ts';
import { within } from '../base/op.ts';
import { run } from './spawn.ts';

const TIMEOUT_MS = 20_000;

export interface HostPath {
  readonly kind: 'file' | 'directory' | 'other' | 'missing';
  /** Without symlinks; "" when missing. */
  readonly realPath: string;
}

/**
 * Looks at a path that a pod chose. What is behind it may be a dead NFS server, so a short-lived process looks, and is killed at its deadline;
 * neither our thread nor libuv's pool touches it (R2). deadlineExceeded.
 */
export async function hostPathStat(op: Op, path: string): Promise<HostPath> {
  const real = await run(within(op, TIMEOUT_MS), { argv: ['realpath', '-e', '-z', '--', path] });
  if (real.exitCode !== 0) {
    const words = real.stderr.toString('utf8').trim();
    // What is unreachable is not missing: nobody may create a directory in its place.
    if (words.endsWith('No such file or directory')) return { kind: 'missing', realPath: '' };
    throw new ClassifiedError('failedPrecondition', words);
  }
  const realPath = real.stdout.toString('utf8').replace(/\0$/, '');
  const stat = await run(within(op, TIMEOUT_MS), { argv: ['stat', '-c', '%F', '--', realPath] });
  if (stat.exitCode !== 0) throw new ClassifiedError('failedPrecondition', stat.stderr.toString('utf8').trim());
  const type = stat.stdout.toString('utf8').trim();
  return { kind: type === 'directory' ? 'directory' : type.startsWith('regular') ? 'file' : 'other', realPath };
}

/** `mkdir -p`, in the same way. */
export async function hostPathMkdir(op: Op, path: string): Promise<void> {
  const made = await run(within(op, TIMEOUT_MS), { argv: ['mkdir', '-p', '--', path] });
  if (made.exitCode !== 0) throw new ClassifiedError('failedPrecondition', made.stderr.toString('utf8').trim());
}

export interface DeviceFacts {
  readonly type: 'b' | 'c' | 'p';
  readonly major: number;
  readonly minor: number;
  /** Permission bits. */
  readonly fileMode: number;
}

const S_IFMT = 0o170000;
const DEVICE_TYPES: ReadonlyMap<number, DeviceFacts['type']> = new Map([
  [0o060000, 'b'],
  [0o020000, 'c'],
  [0o010000, 'p'],
]);

/** What a device node is, in the same way; a symlink is followed. undefined: not there, or no device. */
export async function hostPathDevice(op: Op, path: string): Promise<DeviceFacts | undefined> {
  const { exitCode, stdout, stderr } = await run(within(op, TIMEOUT_MS), { argv: ['stat', '-L', '-c', '%f %t %T', '--', path] });
  if (exitCode !== 0) {
    const words = stderr.toString('utf8').trim();
    if (words.endsWith('No such file or directory')) return undefined;
    throw new ClassifiedError('failedPrecondition', words);
  }
  const [mode = 0, major = 0, minor = 0] = stdout
    .toString('utf8')
    .trim()
    .split(' ')
    .map((hex) => Number.parseInt(hex, 16));
  const type = DEVICE_TYPES.get(mode & S_IFMT);
  return type === undefined ? undefined : { type, major, minor, fileMode: mode & 0o7777 };
}
