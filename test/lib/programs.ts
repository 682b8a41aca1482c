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
