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
