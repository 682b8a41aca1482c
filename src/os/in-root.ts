import { closeSync, lchownSync, mkdirSync, openSync, readlinkSync } from 'node:fs';
import { errnoOf } from '../base/errors.ts';
import { O_DIRECTORY, O_PATH, openat2, RESOLVE } from './syscalls.ts';

const MAX_RACES = 100;
const NOT_THERE: ReadonlySet<string> = new Set(['ENOENT', 'ENOTDIR', 'ELOOP', 'ENAMETOOLONG']);

/**
 * Opens `path` of the tree below the descriptor `root`, resolved inside it whatever symlinks the tree has (S2). undefined: nothing there.
 * Without O_NONBLOCK in `flags` a FIFO or a device blocks; with O_PATH nothing does.
 */
export function openInRoot(root: number, path: string, flags: number): number | undefined {
  for (let races = 0; ; races++) {
    try {
      return openat2(root, path, { flags, resolve: RESOLVE.inRoot | RESOLVE.noMagicLinks });
    } catch (error) {
      const code = errnoOf(error);
      if (code !== undefined && NOT_THERE.has(code)) return undefined;
      if (code !== 'EAGAIN' || races >= MAX_RACES) throw error;
    }
  }
}

/** The directory `path` of the tree at `root`, as a path of the host without symlinks. undefined: none, or no directory. Only lasting in a tree that nobody writes to. */
export function directoryInRoot(root: string, path: string): string | undefined {
  const rootFd = openSync(root, O_PATH | O_DIRECTORY);
  let fd: number | undefined;
  try {
    fd = openInRoot(rootFd, path, O_PATH | O_DIRECTORY);
    return fd === undefined ? undefined : readlinkSync(`/proc/self/fd/${fd}`);
  } finally {
    closeSync(rootFd);
    if (fd !== undefined) closeSync(fd);
  }
}

/**
 * `mkdir -p` inside the tree at `root`: existing symlinks are followed, but never out of it; what is missing belongs to `owner`, mode 0755.
 * false: something that is no directory, or a symlink to nothing, is in the way.
 */
export function makeDirsInRoot(root: string, path: string, owner: { uid: number; gid: number } = { uid: 0, gid: 0 }): boolean {
  const rootFd = openSync(root, O_PATH | O_DIRECTORY);
  let parent = rootFd;
  try {
    const names = path.split('/').filter((name) => name !== '' && name !== '.');
    for (const depth of names.keys()) {
      const below = names.slice(0, depth + 1).join('/');
      let fd = openInRoot(rootFd, below, O_PATH | O_DIRECTORY);
      if (fd === undefined) {
        if (names[depth] === '..' || !makeDir(`/proc/self/fd/${parent}/${names[depth]}`, owner)) return false;
        fd = openInRoot(rootFd, below, O_PATH | O_DIRECTORY);
        if (fd === undefined) return false;
      }
      if (parent !== rootFd) closeSync(parent);
      parent = fd;
    }
    return true;
  } finally {
    closeSync(rootFd);
    if (parent !== rootFd) closeSync(parent);
  }
}

// The last part of a path is never followed by mkdir(2): a symlink there is EEXIST.
function makeDir(path: string, { uid, gid }: { uid: number; gid: number }): boolean {
  try {
    mkdirSync(path, { mode: 0o755 });
    if (uid !== 0 || gid !== 0) lchownSync(path, uid, gid);
    return true;
  } catch (error) {
    if (errnoOf(error) === 'EEXIST' || errnoOf(error) === 'ENAMETOOLONG') return false;
    throw error;
  }
}
