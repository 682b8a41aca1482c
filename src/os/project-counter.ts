import { closeSync, openSync } from 'node:fs';
import { open } from 'node:fs/promises';
import { ClassifiedError, errnoOf, messageOf } from '../base/errors.ts';
import type { DiskUsage } from './disk-usage.ts';
import type { Project } from './syscalls.ts';
import { getProject, O_CLOEXEC, O_DIRECTORY, O_PATH, projectQuota, setProject } from './syscalls.ts';

/** A filesystem that counts for itself what lies below a directory: ext4 and XFS, by project quotas. */
export interface ProjectCounter {
  /** Undefined: what is made in this directory counts for no project. */
  idOf(dir: string): Promise<number | undefined>;
  /** An empty directory, and what will be made in it and below, counts as `id` from now on. */
  assign(dir: string, id: number): Promise<void>;
  /** Zero for an id that nothing has. */
  usage(id: number): Promise<DiskUsage>;
}

/**
 * Of the filesystem of `root`, a directory of ours; limits play no part, they need not be enforced. failedPrecondition: it does not count, or `root` counts
 * for somebody's project already, whose figures would be wrong then.
 */
export async function openProjectCounter(root: string): Promise<ProjectCounter> {
  // Kept for good: quotactl_fd(2) takes any descriptor of the filesystem.
  const fd = openSync(root, O_PATH | O_DIRECTORY | O_CLOEXEC);
  const counter: ProjectCounter = {
    async idOf(dir) {
      const { id, inherits } = await projectOf(dir);
      return inherits ? id : undefined;
    },
    assign: (dir, id) => withDir(dir, (each) => setProject(each, { id, inherits: true })),
    async usage(id) {
      try {
        return await projectQuota(fd, id);
      } catch (error) {
        if (errnoOf(error) === 'ENOENT') return { sizeBytes: 0, inodes: 0 };
        throw error;
      }
    },
  };
  try {
    await counter.usage(0);
    const { id, inherits } = await projectOf(root);
    if (id === 0 && !inherits) return counter;
    throw new ClassifiedError('failedPrecondition', `${root} belongs to project ${id}`);
  } catch (error) {
    closeSync(fd);
    if (error instanceof ClassifiedError) throw error;
    throw new ClassifiedError('failedPrecondition', `the filesystem has no project quotas that are on (${messageOf(error)})`);
  }
}

async function withDir<T>(dir: string, use: (fd: number) => Promise<T>): Promise<T> {
  await using handle = await open(dir, O_DIRECTORY);
  return await use(handle.fd);
}

const projectOf = (dir: string): Promise<Project> => withDir(dir, getProject);
