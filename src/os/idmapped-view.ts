import { closeSync, mkdirSync, openSync, rmdirSync } from 'node:fs';
import { ClassifiedError, errnoOf } from '../base/errors.ts';
import { attachMount, cloneMount, idmapMount, MNT_DETACH, umount2, UMOUNT_NOFOLLOW } from './syscalls.ts';

export interface ViewOptions {
  readonly dir: string;
  readonly userns: string;
  readonly at: string;
  readonly recursive: boolean;
}

/**
 * A second, read-only mount of a directory (`recursive`: and of what is mounted below it) whose owners are seen through a user namespace: id 0 on disk is that namespace's root.
 * It exists until it is disposed of, and its end reaches nothing of the directory; what was made of it meanwhile, an overlay say, keeps it. `userns` is a
 * pinned namespace, `at` a path that does not exist yet: kernels before 6.15 make no overlay of a mount that is attached nowhere. failedPrecondition: the
 * filesystem has no idmapped mounts.
 */
export class IdmappedView implements Disposable {
  readonly #at: string;
  readonly #fd: number;

  constructor(options: ViewOptions) {
    this.#at = options.at;
    this.#fd = cloneMount(options.dir, options.recursive);
    try {
      idmap(this.#fd, options);
      mkdirSync(options.at, { mode: 0o700 });
      attach(this.#fd, options.at);
    } catch (error) {
      closeSync(this.#fd);
      throw error;
    }
  }

  /** The directory, short enough for mount options and only for this process. */
  get path(): string {
    return `/proc/self/fd/${this.#fd}`;
  }

  [Symbol.dispose](): void {
    closeSync(this.#fd);
    umount2(this.#at, MNT_DETACH | UMOUNT_NOFOLLOW);
    rmdirSync(this.#at);
  }
}

// Never a recursive removal here: it could reach the directory itself.
function attach(mountFd: number, at: string): void {
  try {
    attachMount(mountFd, at);
  } catch (error) {
    rmdirSync(at);
    throw error;
  }
}

function idmap(mountFd: number, { dir, userns, recursive }: ViewOptions): void {
  const usernsFd = openSync(userns, 'r');
  try {
    idmapMount(mountFd, usernsFd, recursive);
  } catch (error) {
    if (errnoOf(error) !== 'EINVAL') throw error;
    throw new ClassifiedError('failedPrecondition', `the filesystem of ${dir} has no idmapped mounts, which user namespaces need`, {
      cause: error,
    });
  } finally {
    closeSync(usernsFd);
  }
}
