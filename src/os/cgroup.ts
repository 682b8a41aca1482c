import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { mkdir, readFile, rmdir, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { ClassifiedError, errnoOf } from '../base/errors.ts';
import type { CgroupDetail } from './cgroup-detail.ts';
import { readDetailIn } from './cgroup-detail.ts';
import type { CgroupMode, Hierarchies } from './cgroup-hierarchies.ts';
import { directoriesOf, directoryOf, hierarchies, membershipsIn } from './cgroup-hierarchies.ts';
import type { CgroupStats } from './cgroup-stats.ts';
import { readOomKillsIn, readStatsIn } from './cgroup-stats.ts';
import { processRef, signal } from './process.ts';

export type { CgroupDetail } from './cgroup-detail.ts';
export type { CgroupMode } from './cgroup-hierarchies.ts';
export type { CgroupStats } from './cgroup-stats.ts';

// A path is what /proc/PID/cgroup says, on v1 and v2 alike: "/kubepods/burstable/podX/<id>".

export const cgroupMode = (): CgroupMode => hierarchies().mode;

/** Limits that a kernel may have been built or booted without. */
export interface CgroupLimits {
  readonly hugepages: boolean;
  readonly swap: boolean;
}

export const cgroupLimits = (): CgroupLimits => limitsIn(hierarchies());

/** On v2 the root has no limits: any cgroup below it shows what there is. */
export function limitsIn({ mode, v1, unified = '/sys/fs/cgroup' }: Hierarchies): CgroupLimits {
  if (mode !== 'v2') {
    const memory = v1.get('memory');
    return { hugepages: v1.has('hugetlb'), swap: memory !== undefined && existsSync(join(memory, 'memory.memsw.limit_in_bytes')) };
  }
  const controllers = readFileSync(join(unified, 'cgroup.controllers'), 'utf8').split(/\s+/);
  const below = readdirSync(unified, { withFileTypes: true }).filter((entry) => entry.isDirectory());
  return { hugepages: controllers.includes('hugetlb'), swap: below.some(({ name }) => existsSync(join(unified, name, 'memory.swap.max'))) };
}

/** One reading of a cgroup; a file that is missing counts as zero. */
export const readStats = (path: string): Promise<CgroupStats> => readStatsIn(hierarchies(), path);

export const readOomKills = (path: string): Promise<number | undefined> => readOomKillsIn(hierarchies(), path);

export const readDetail = (path: string): Promise<CgroupDetail> => readDetailIn(hierarchies(), path);

const isRoot = (path: string): boolean => path === '' || path === '/';

/** The controller whose hierarchy stands for all of v1 where one has to be asked. */
const LEADING = 'memory';

/** As in /proc/PID/cgroup: of the memory controller on v1. undefined when there is no such process. */
export function cgroupOf(pid: number): string | undefined {
  let text: string;
  try {
    text = readFileSync(`/proc/${pid}/cgroup`, 'utf8');
  } catch {
    return undefined;
  }
  const wanted = cgroupMode() === 'v2' ? '' : LEADING;
  return membershipsIn(text).find(({ controllers }) => controllers.includes(wanted))?.path;
}

const isWithin = (cgroup: string | undefined, path: string): boolean => cgroup === path || cgroup?.startsWith(`${path}/`) === true;

export const cgroupExists = (path: string): boolean => existsSync(directoryOf(hierarchies(), path, LEADING));

/** In every hierarchy, with its parents, ready for processes to join. Existing is fine. */
export async function createCgroup(path: string): Promise<void> {
  const tree = hierarchies();
  for (const dir of directoriesOf(tree, path)) await mkdir(dir, { recursive: true });
  if (tree.mode === 'v2') await enableControllers(tree, path);
  else if (tree.v1.has('cpuset')) await fillCpuset(tree, path);
}

function ancestors(path: string): string[] {
  const parent = dirname(path);
  return isRoot(path) ? [] : [...ancestors(parent), parent];
}

// A v2 cgroup has the files of a controller only if its parent hands that controller down; one with processes of its own can't (EBUSY).
async function enableControllers(tree: Hierarchies, path: string): Promise<void> {
  for (const parent of ancestors(path)) {
    const dir = directoryOf(tree, parent, '');
    for (const controller of (await readIfThere(join(dir, 'cgroup.controllers'))).trim().split(' ').filter(Boolean)) {
      await writeFile(join(dir, 'cgroup.subtree_control'), `+${controller}`).catch(() => undefined);
    }
  }
}

// A new v1 cpuset has no CPU and no memory node, and admits nobody (ENOSPC) until it has.
async function fillCpuset(tree: Hierarchies, path: string): Promise<void> {
  for (const each of [...ancestors(path).slice(1), path]) {
    for (const file of ['cpuset.cpus', 'cpuset.mems']) {
      const own = join(directoryOf(tree, each, 'cpuset'), file);
      if ((await readIfThere(own)).trim() !== '') continue;
      await writeFile(own, await readIfThere(join(directoryOf(tree, dirname(each), 'cpuset'), file)));
    }
  }
}

const readIfThere = (path: string): Promise<string> => readFile(path, 'utf8').catch(() => '');

/** In every hierarchy. The error has the errno: ENOENT no such cgroup, ESRCH no such process. */
export async function joinCgroup(path: string, pid: number): Promise<void> {
  for (const dir of directoriesOf(hierarchies(), path)) await writeFile(join(dir, 'cgroup.procs'), String(pid));
}

/** Pids of the cgroup itself and of all below it; those of a pid namespace that we can't see are left out. */
export async function procsIn(path: string): Promise<number[]> {
  const dirs = treeOf(directoryOf(hierarchies(), path, LEADING));
  const lists = await Promise.all(dirs.map((dir) => readIfThere(join(dir, 'cgroup.procs'))));
  return lists.flatMap((text) => text.split('\n').map(Number)).filter((pid) => pid > 0);
}

/** A directory and those below it, parents first; empty when missing. The kernel has them in memory. */
function treeOf(root: string): string[] {
  const dirs: string[] = [];
  for (const queue = [root]; queue.length > 0;) {
    const dir = queue.pop() ?? '';
    try {
      const entries = readdirSync(dir, { withFileTypes: true });
      queue.push(...entries.filter((entry) => entry.isDirectory()).map((entry) => join(dir, entry.name)));
      dirs.push(dir);
    } catch {
      continue;
    }
  }
  return dirs;
}

const KILL_TIMEOUT_MS = 500;
const SIGKILL = 9;

/**
 * SIGKILL to all of it; waits until it is empty, half a second at most: a process in a call that can't be interrupted stays. Missing is fine, the root is
 * left alone. failedPrecondition when we are in it ourselves.
 */
export async function killCgroup(path: string): Promise<void> {
  if (isRoot(path)) return;
  if (isWithin(cgroupOf(process.pid), path)) throw new ClassifiedError('failedPrecondition', `kill cgroup ${path}: the daemon is in it`);
  const untilMs = Date.now() + KILL_TIMEOUT_MS;
  for (let waitMs = 1; ; waitMs = Math.min(waitMs * 2, 50)) {
    const pids = await procsIn(path);
    if (pids.length === 0 || Date.now() > untilMs) return;
    if (!(await tell(path, '', 'cgroup.kill', '1'))) await killEach(path, { frozen: waitMs > 1 });
    await sleep(waitMs);
  }
}

/** false when there is no such file: another version, Linux before 5.14, or the cgroup is gone. */
async function tell(path: string, controller: string, file: string, value: string): Promise<boolean> {
  const tree = hierarchies();
  const isV2File = controller === '';
  if (isV2File !== (tree.mode === 'v2')) return false;
  const target = join(directoryOf(tree, path, controller), file);
  if (!existsSync(target)) return false;
  return writeFile(target, value).then(
    () => true,
    () => false,
  );
}

// What forks faster than it is listed is frozen first; a frozen process dies when it thaws.
async function killEach(path: string, { frozen }: { frozen: boolean }): Promise<void> {
  if (frozen) await tell(path, 'freezer', 'freezer.state', 'FROZEN');
  try {
    for (const pid of await procsIn(path)) {
      const ref = processRef(pid);
      // Between the list and now the number may have gone to somebody else.
      if (ref && isWithin(cgroupOf(pid), path)) signal(ref, SIGKILL);
    }
  } finally {
    if (frozen) await tell(path, 'freezer', 'freezer.state', 'THAWED');
  }
}

const REMOVE_TIMEOUT_MS = 2_000;

/** The whole tree in every hierarchy, leaves first; EBUSY (a process that is just ending, say the init of a create that was cut off) is tried again for two seconds. Kills nothing. Missing is fine. */
export async function removeCgroup(path: string): Promise<void> {
  if (isRoot(path)) return;
  const tree = hierarchies();
  const dirs = directoriesOf(tree, path);
  // A runtime may have made one there for its own purposes.
  if (tree.mode === 'hybrid' && tree.unified !== undefined) dirs.push(join(tree.unified, path));
  await Promise.all(dirs.map(removeTree));
}

async function removeTree(root: string): Promise<void> {
  // Few have others below them.
  const isGone = await removeDirectory(root).then(
    () => true,
    () => false,
  );
  if (isGone) return;
  const untilMs = Date.now() + REMOVE_TIMEOUT_MS;
  for (let waitMs = 1; ; waitMs = Math.min(waitMs * 2, 20)) {
    try {
      for (const dir of treeOf(root).reverse()) await removeDirectory(dir);
      return;
    } catch (error) {
      if (errnoOf(error) !== 'EBUSY' || Date.now() > untilMs) throw error;
    }
    await sleep(waitMs);
  }
}

async function removeDirectory(dir: string): Promise<void> {
  try {
    await rmdir(dir);
  } catch (error) {
    if (errnoOf(error) !== 'ENOENT') throw error;
  }
}

export interface CgroupResources {
  /** cgroup v1 scale, 2 to 262144; v2's weight is computed from it. */
  readonly cpuShares?: number;
  /** 0: no limit. */
  readonly cpuQuotaUs?: number;
  readonly cpuPeriodUs?: number;
  /** 0: no limit. */
  readonly memoryLimitBytes?: number;
  /** 0: no limit. */
  readonly pidsLimit?: number;
}

const DEFAULT_PERIOD_US = 100_000;

/** Writes what is given and leaves the rest. The error has the errno of the kernel's refusal. */
export async function setResources(path: string, resources: CgroupResources): Promise<void> {
  const tree = hierarchies();
  for (const { controller, file, value } of settingsOf(resources, tree.mode === 'v2' ? 'v2' : 'v1')) {
    await writeFile(join(directoryOf(tree, path, controller), file), value);
  }
}

/** The files behind `setResources`, in the order in which they are written. */
export function settingsOf(resources: CgroupResources, version: 'v1' | 'v2'): Array<{ controller: string; file: string; value: string }> {
  const { cpuShares, cpuQuotaUs, cpuPeriodUs = DEFAULT_PERIOD_US, memoryLimitBytes, pidsLimit } = resources;
  const v2 = version === 'v2';
  const settings: Array<{ controller: string; file: string; value: string }> = [];
  const set = (controller: string, file: string, value: string | number): void => {
    settings.push({ controller, file, value: String(value) });
  };
  const unlimited = v2 ? 'max' : '-1';
  if (cpuShares !== undefined) set('cpu', v2 ? 'cpu.weight' : 'cpu.shares', v2 ? weightOf(cpuShares) : cpuShares);
  if (cpuQuotaUs !== undefined) {
    if (v2) set('cpu', 'cpu.max', `${cpuQuotaUs > 0 ? cpuQuotaUs : 'max'} ${cpuPeriodUs}`);
    else {
      set('cpu', 'cpu.cfs_period_us', cpuPeriodUs);
      set('cpu', 'cpu.cfs_quota_us', cpuQuotaUs > 0 ? cpuQuotaUs : -1);
    }
  }
  if (memoryLimitBytes !== undefined) {
    set('memory', v2 ? 'memory.max' : 'memory.limit_in_bytes', memoryLimitBytes > 0 ? memoryLimitBytes : unlimited);
  }
  if (pidsLimit !== undefined) set('pids', 'pids.max', pidsLimit > 0 ? pidsLimit : 'max');
  return settings;
}

/** The OCI runtimes' map of shares (2 to 262144) to weight (1 to 10000). */
const weightOf = (shares: number): number => Math.min(10_000, Math.max(1, 1 + Math.trunc(((shares - 2) * 9999) / 262_142)));
