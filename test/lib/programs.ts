import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import type { Context } from 'mocha';
import { findProgram } from '../../hack/images/programs.ts';

/** crictl by CRICTL, from .out/bin or PATH. Without one the suite is skipped, but fails where CI asks for everything. */
export function crictlProgram(context: Context): string {
  const built = join(import.meta.dirname, '../../.out/bin/crictl');
  const found = process.env['CRICTL'] ?? (existsSync(built) ? built : findProgram('crictl'));
  if (found !== undefined) return found;
  if (process.env['CI'] === 'true') throw new Error('no crictl: put it on PATH or into .out/bin (hack/test builds it where Go is)');
  return context.skip();
}

/** A runc that idmaps mounts, as hack/build-runc finds or built it (no network here); undefined when the machine has none. */
export function idmappingRunc(): string | undefined {
  const { status, stdout } = spawnSync(join(import.meta.dirname, '../../hack/build-runc'), ['--find'], { encoding: 'utf8' });
  return status === 0 ? stdout.trim() : undefined;
}

/** The same for a suite that is about nothing else: skipped without one, but failing where CI asks for everything. */
export function neededIdmappingRunc(context: Context): string {
  const found = idmappingRunc();
  if (found !== undefined) return found;
  if (process.env['CI'] === 'true') throw new Error('no runc that idmaps mounts: hack/build-runc says why');
  return context.skip();
}

/** fsck.erofs of 1.7 or later, as hack/erofs-utils finds or fetched it. Without one the suite is skipped, but fails where CI asks for everything. */
export function neededErofsFsck(context: Context): string {
  const { status, stdout } = spawnSync(join(import.meta.dirname, '../../hack/erofs-utils'), ['--find'], { encoding: 'utf8' });
  if (status === 0) return stdout.trim();
  if (process.env['CI'] === 'true') throw new Error('no fsck.erofs of 1.7 or later: hack/erofs-utils says why');
  return context.skip();
}
