import type { Stats } from 'node:fs';
import { lstat, readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { errnoOf } from '../base/errors.ts';

/** What `st_blocks` counts, whatever the filesystem calls a block. */
const SECTOR_BYTES = 512;

/** Space and inodes as the filesystem counts them: what `du -B1` and `du --inodes` say. */
export interface DiskUsage {
  readonly sizeBytes: number;
  readonly inodes: number;
}

export const blocksOf = ({ blocks }: Pick<Stats, 'blocks'>): number => blocks * SECTOR_BYTES;

export const sumOf = (usages: readonly DiskUsage[]): DiskUsage => ({
  sizeBytes: usages.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0),
  inodes: usages.reduce((sum, { inodes }) => sum + inodes, 0),
});

/** Of these files and directories themselves, symlinks not followed; missing ones take nothing. */
export const usageOf = async (paths: readonly string[]): Promise<DiskUsage> => sumOf(await Promise.all(paths.map(usageOfOne)));

async function usageOfOne(path: string): Promise<DiskUsage> {
  try {
    return { sizeBytes: blocksOf(await lstat(path)), inodes: 1 };
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return { sizeBytes: 0, inodes: 0 };
    throw error;
  }
}

/** Of a directory of files, with itself. */
export async function flatUsage(dir: string): Promise<DiskUsage> {
  const names = await readdir(dir);
  return usageOf([dir, ...names.map((name) => join(dir, name))]);
}
