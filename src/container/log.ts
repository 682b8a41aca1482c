import { closeSync, constants, fstatSync, mkdirSync, openSync } from 'node:fs';
import { mkdir } from 'node:fs/promises';
import { basename, dirname } from 'node:path';
import { errnoOf, invalidArgument } from '../base/errors.ts';
import { O_DIRECTORY, O_PATH, openat2, RESOLVE } from '../os/syscalls.ts';

const FIELD = 'config.log_path';

/**
 * Makes the directories of a container's log. Below the pod's log directory nothing may be a symbolic link, and the log itself, if it is there already, must
 * be a regular file: who can write to the directory (a pod that mounts it) must not choose what the monitor appends to (CVE-2025-0750). invalidArgument.
 */
export async function prepareLog(logDirectory: string, logPath: string): Promise<void> {
  await mkdir(logDirectory, { recursive: true, mode: 0o755 });
  let dir = openSync(logDirectory, constants.O_RDONLY | constants.O_DIRECTORY);
  try {
    for (const part of dirname(logPath).split('/')) {
      if (part === '' || part === '.') continue;
      const below = subdirectory(dir, part);
      closeSync(dir);
      dir = below;
    }
    refuseOther(dir, basename(logPath));
  } finally {
    closeSync(dir);
  }
}

const PLAIN = RESOLVE.beneath | RESOLVE.noSymlinks;

function subdirectory(dir: number, name: string): number {
  try {
    mkdirSync(`/proc/self/fd/${dir}/${name}`, { mode: 0o755 });
  } catch (error) {
    if (errnoOf(error) !== 'EEXIST') throw error;
  }
  try {
    return openat2(dir, name, { flags: O_PATH | O_DIRECTORY, resolve: PLAIN });
  } catch (error) {
    const errno = errnoOf(error);
    throw errno === 'ELOOP' || errno === 'ENOTDIR' ? invalidArgument(FIELD, `${JSON.stringify(name)} is not a directory`) : error;
  }
}

function refuseOther(dir: number, name: string): void {
  let file: number;
  try {
    file = openat2(dir, name, { flags: O_PATH, resolve: PLAIN });
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return;
    throw errnoOf(error) === 'ELOOP' ? invalidArgument(FIELD, `${JSON.stringify(name)} is a symbolic link`) : error;
  }
  try {
    if (!fstatSync(file).isFile()) throw invalidArgument(FIELD, `${JSON.stringify(name)} is not a regular file`);
  } finally {
    closeSync(file);
  }
}
