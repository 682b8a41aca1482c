import { existsSync, readFileSync } from 'node:fs';
import { mkdir, readdir, readFile, rmdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { errnoOf } from '../base/errors.ts';

/** `hybrid`: v1 controllers, and a v2 tree without any beside them. */
export type CgroupMode = 'v1' | 'v2' | 'hybrid';

/** Of one cgroup and all below it. Undefined: the kernel or the controller doesn't say. */
export interface CgroupStats {
  readonly cpuUsageNs: bigint;
  readonly memory: {
    readonly usageBytes: number;
    /** Usage less inactive file pages, as kubelet's eviction counts. */
    readonly workingSetBytes: number;
    readonly rssBytes: number;
    readonly pageFaults: number;
    readonly majorPageFaults: number;
    /** undefined: no limit. */
    readonly limitBytes: number | undefined;
  };
  readonly swap: { readonly usageBytes: number; readonly limitBytes: number | undefined } | undefined;
  readonly pids: { readonly current: number; readonly limit: number | undefined };
  readonly oomKillCount: number;
}

const ROOT = '/sys/fs/cgroup';
/** v1 says "no limit" with a number around 2^63. */
const UNLIMITED_BYTES = 2 ** 60;

interface Hierarchies {
  readonly mode: CgroupMode;
  /** Directory of each v1 hierarchy; empty on v2. */
  readonly v1: ReadonlyMap<string, string>;
}

let found: Hierarchies | undefined;

function hierarchies(): Hierarchies {
  found ??= findHierarchies(readFileSync('/proc/self/mountinfo', 'utf8'));
  return found;
}

/** From the text of a mountinfo (proc(5)). */
export function findHierarchies(mountinfo: string): Hierarchies {
  const v1 = new Map<string, string>();
  let unified: string | undefined;
  for (const line of mountinfo.split('\n')) {
    const [before = '', after = ''] = line.split(' - ');
    const target = before.split(' ')[4] ?? '';
    const [type, , options = ''] = after.split(' ');
    if (type === 'cgroup2') unified ??= target;
    if (type !== 'cgroup') continue;
    for (const option of options.split(',')) {
      if (option !== 'rw' && option !== 'ro' && option !== 'xattr' && !option.startsWith('release_agent') && !v1.has(option))
        v1.set(option, target);
    }
  }
  const controllers = [...v1.keys()].some((name) => !name.startsWith('name='));
  return { mode: controllers ? (unified === undefined ? 'v1' : 'hybrid') : 'v2', v1 };
}

export const cgroupMode = (): CgroupMode => hierarchies().mode;

/** Directories of one cgroup path: one per v1 hierarchy, or the one of v2. */
function directories(path: string): string[] {
  const { mode, v1 } = hierarchies();
  return mode === 'v2' ? [join(ROOT, path)] : [...new Set(v1.values())].map((dir) => join(dir, path));
}

const directory = (path: string, controller: string): string => {
  const { mode, v1 } = hierarchies();
  return mode === 'v2' ? join(ROOT, path) : join(v1.get(controller) ?? join(ROOT, controller), path);
};

/** As in /proc/PID/cgroup: of the memory controller on v1. undefined when there is no such process. */
export function cgroupOf(pid: number): string | undefined {
  let text: string;
  try {
    text = readFileSync(`/proc/${pid}/cgroup`, 'utf8');
  } catch {
    return undefined;
  }
  const wanted = cgroupMode() === 'v2' ? '' : 'memory';
  for (const line of text.split('\n')) {
    const [, controllers = '-', ...path] = line.split(':');
    if (controllers.split(',').includes(wanted)) return path.join(':');
  }
  return undefined;
}

export const cgroupExists = (path: string): boolean => existsSync(directory(path, 'memory'));

export async function createCgroup(path: string): Promise<void> {
  for (const dir of directories(path)) await mkdir(dir, { recursive: true });
}

export async function joinCgroup(path: string, pid: number): Promise<void> {
  for (const dir of directories(path)) await writeFile(join(dir, 'cgroup.procs'), String(pid));
}

/** Pids of the cgroup itself and of all below it. */
export async function procsIn(path: string): Promise<number[]> {
  const dirs = await tree(directory(path, cgroupMode() === 'v2' ? '' : 'memory'));
  const lists = await Promise.all(dirs.map((dir) => readIfThere(join(dir, 'cgroup.procs'))));
  return lists.flatMap((text) => text.split('\n').filter(Boolean).map(Number));
}

const KILL_ROUNDS = 50;
const ROUND_MS = 10;

/** SIGKILL to all of it, again until it is empty (half a second at most) where the kernel can't do it in one step. Missing is fine. */
export async function killCgroup(path: string): Promise<void> {
  if (path === '' || path === '/') return;
  if (cgroupMode() === 'v2') {
    try {
      await writeFile(join(directory(path, ''), 'cgroup.kill'), '1');
      return;
    } catch (error) {
      // Linux before 5.14 has no cgroup.kill.
      if (errnoOf(error) !== 'ENOENT' && errnoOf(error) !== 'EACCES') throw error;
    }
  }
  for (let round = 0; round < KILL_ROUNDS; round++) {
    const pids = await procsIn(path);
    if (pids.length === 0) return;
    for (const pid of pids) killPid(pid);
    await sleep(ROUND_MS);
  }
}

function killPid(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL');
  } catch (error) {
    if (errnoOf(error) !== 'ESRCH') throw error;
  }
}

const REMOVE_TRIES = 25;

/** The whole tree, leaves first; EBUSY (a process that is just ending) is tried again for half a second. Missing is fine. */
export async function removeCgroup(path: string): Promise<void> {
  if (path === '' || path === '/') return;
  await Promise.all(directories(path).map(removeTree));
}

async function removeTree(root: string): Promise<void> {
  for (const dir of (await tree(root)).reverse()) {
    for (let tries = 1; ; tries++) {
      try {
        await rmdir(dir);
        break;
      } catch (error) {
        const code = errnoOf(error);
        if (code === 'ENOENT') break;
        if ((code !== 'EBUSY' && code !== 'ENOTEMPTY') || tries >= REMOVE_TRIES) throw error;
        await sleep(20);
      }
    }
  }
}

/** A directory and those below it, parents first; empty when missing. */
async function tree(root: string): Promise<string[]> {
  const dirs: string[] = [];
  for (const queue = [root]; queue.length > 0;) {
    const dir = queue.pop() ?? '';
    const entries = await readdir(dir, { withFileTypes: true }).catch(() => undefined);
    if (entries === undefined) continue;
    dirs.push(dir);
    queue.push(...entries.filter((entry) => entry.isDirectory()).map((entry) => join(dir, entry.name)));
  }
  return dirs;
}

const readIfThere = (path: string): Promise<string> => readFile(path, 'utf8').catch(() => '');

const numberIn = (text: string): number => (text === '' ? 0 : Number(text.trim()));

const limitIn = (text: string): number | undefined => {
  const value = text.trim();
  return value === '' || value === 'max' || Number(value) >= UNLIMITED_BYTES ? undefined : Number(value);
};

/** `key value` lines. */
export function keyed(text: string): ReadonlyMap<string, string> {
  return new Map(
    text.split('\n').flatMap((line) => {
      const at = line.indexOf(' ');
      return at < 0 ? [] : [[line.slice(0, at), line.slice(at + 1)] as const];
    }),
  );
}

/** One reading of a cgroup; a file that is missing counts as zero. */
export async function readStats(path: string): Promise<CgroupStats> {
  return cgroupMode() === 'v2' ? readV2(join(ROOT, path)) : readV1(path);
}

async function readV1(path: string): Promise<CgroupStats> {
  const read = (controller: string, file: string): Promise<string> => readIfThere(join(directory(path, controller), file));
  const [cpu, usage, limit, stat, oom, pids, pidsMax, swapUsage, swapLimit] = await Promise.all([
    read('cpuacct', 'cpuacct.usage'),
    read('memory', 'memory.usage_in_bytes'),
    read('memory', 'memory.limit_in_bytes'),
    read('memory', 'memory.stat'),
    read('memory', 'memory.oom_control'),
    read('pids', 'pids.current'),
    read('pids', 'pids.max'),
    read('memory', 'memory.memsw.usage_in_bytes'),
    read('memory', 'memory.memsw.limit_in_bytes'),
  ]);
  const of = keyed(stat);
  const number = (key: string): number => Number(of.get(key) ?? 0);
  const usageBytes = numberIn(usage);
  return {
    cpuUsageNs: BigInt(cpu.trim() || '0'),
    memory: {
      usageBytes,
      workingSetBytes: Math.max(0, usageBytes - number('total_inactive_file')),
      rssBytes: number('total_rss'),
      pageFaults: number('total_pgfault'),
      majorPageFaults: number('total_pgmajfault'),
      limitBytes: limitIn(limit),
    },
    // memsw counts memory and swap together.
    swap: swapUsage === '' ? undefined : { usageBytes: Math.max(0, numberIn(swapUsage) - usageBytes), limitBytes: limitIn(swapLimit) },
    pids: { current: numberIn(pids), limit: limitIn(pidsMax) },
    oomKillCount: Number(keyed(oom).get('oom_kill') ?? 0),
  };
}

async function readV2(dir: string): Promise<CgroupStats> {
  const read = (file: string): Promise<string> => readIfThere(join(dir, file));
  const [cpu, usage, limit, stat, events, pids, pidsMax, swapUsage, swapLimit] = await Promise.all(
    [
      'cpu.stat',
      'memory.current',
      'memory.max',
      'memory.stat',
      'memory.events',
      'pids.current',
      'pids.max',
      'memory.swap.current',
      'memory.swap.max',
    ].map(read),
  );
  const of = keyed(stat ?? '');
  const number = (key: string): number => Number(of.get(key) ?? 0);
  const usageBytes = numberIn(usage ?? '');
  return {
    cpuUsageNs: BigInt(keyed(cpu ?? '').get('usage_usec') ?? '0') * 1000n,
    memory: {
      usageBytes,
      workingSetBytes: Math.max(0, usageBytes - number('inactive_file')),
      rssBytes: number('anon'),
      pageFaults: number('pgfault'),
      majorPageFaults: number('pgmajfault'),
      limitBytes: limitIn(limit ?? ''),
    },
    swap:
      swapUsage === '' || swapUsage === undefined ? undefined : { usageBytes: numberIn(swapUsage), limitBytes: limitIn(swapLimit ?? '') },
    pids: { current: numberIn(pids ?? ''), limit: limitIn(pidsMax ?? '') },
    oomKillCount: Number(keyed(events ?? '').get('oom_kill') ?? 0),
  };
}
