import { accessSync, constants, statSync } from 'node:fs';
import { isAbsolute, join } from 'node:path';
import { ClassifiedError } from '../base/errors.ts';

const DEFAULT_PATH = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin';

function isProgram(path: string): boolean {
  try {
    accessSync(path, constants.X_OK);
    return statSync(path).isFile();
  } catch {
    return false;
  }
}

/** Absolute path of a program given by path or by name on PATH; failedPrecondition when there is none. */
export function findProgram(name: string): string {
  const candidates = isAbsolute(name) ? [name] : (process.env['PATH'] ?? DEFAULT_PATH).split(':').map((dir) => join(dir || '.', name));
  const found = candidates.find(isProgram);
  if (found === undefined) throw new ClassifiedError('failedPrecondition', `find program ${JSON.stringify(name)}: not found`);
  return found;
}
