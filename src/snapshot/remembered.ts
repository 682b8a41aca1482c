import { isDeepStrictEqual } from 'node:util';
import { isDiskFull } from '../base/errors.ts';
import { readJson, writeJson } from '../os/atomic-file.ts';

/**
 * What `probe` finds, which is written to `path`; where the disk is too full to try anything, what it found at an earlier start (R11). The error of the probe
 * when nothing is known, or it failed over something else.
 */
export async function remembered<T extends object>(path: string, probe: () => T | Promise<T>): Promise<T> {
  const known = (await readJson(path).catch(() => undefined)) as T | undefined;
  let found: T;
  try {
    found = await probe();
  } catch (error) {
    if (isDiskFull(error) && known !== undefined) return known;
    throw error;
  }
  // Not written on a disk that is full by now: the next start may do without.
  if (!isDeepStrictEqual(found, known)) await writeJson(path, found).catch(() => undefined);
  return found;
}
