import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { Hierarchies } from './cgroup-hierarchies.ts';
import { directoryOf } from './cgroup-hierarchies.ts';
import type { Pressures } from './pressure.ts';
import { NO_PRESSURES, readPressures } from './pressure.ts';

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
    /** What is left below the limit, counted from the working set; undefined without one. */
    readonly availableBytes: number | undefined;
  };
  readonly swap: { readonly usageBytes: number; readonly limitBytes: number | undefined } | undefined;
  readonly pids: { readonly current: number; readonly limit: number | undefined };
  /** Of v1: of the cgroup itself only. */
  readonly oomKillCount: number;
  /** Of v1: from the cgroup of the same name in the v2 tree beside it, where the runtime has put the processes into one. */
  readonly pressure: Pressures;
}

/** v1 says "no limit" with a number around 2^63. */
const UNLIMITED_BYTES = 2 ** 60;

/** One reading of a cgroup; a file that is missing counts as zero. */
export async function readStatsIn(tree: Hierarchies, path: string): Promise<CgroupStats> {
  return tree.mode === 'v2' ? readV2(directoryOf(tree, path, '')) : readV1(tree, path);
}

/** OOM kills that a cgroup has counted (v1: of itself only). undefined: it is gone, as systemd removes a scope with its last process, or does not count. */
export async function readOomKillsIn(tree: Hierarchies, path: string): Promise<number | undefined> {
  const file =
    tree.mode === 'v2' ? join(directoryOf(tree, path, ''), 'memory.events') : join(directoryOf(tree, path, 'memory'), 'memory.oom_control');
  const count = keyed(await readIfThere(file)).get('oom_kill');
  return count === undefined ? undefined : Number(count);
}

export const readIfThere = (path: string): Promise<string> => readFile(path, 'utf8').catch(() => '');

export const numberIn = (text: string): number => (text === '' ? 0 : Number(text.trim()));

export function limitIn(text: string): number | undefined {
  const value = text.trim();
  return value === '' || value === 'max' || Number(value) >= UNLIMITED_BYTES ? undefined : Number(value);
}

/** `key value` lines. */
export function keyed(text: string): ReadonlyMap<string, string> {
  return new Map(
    text.split('\n').flatMap((line) => {
      const at = line.indexOf(' ');
      return at < 0 ? [] : [[line.slice(0, at), line.slice(at + 1)] as const];
    }),
  );
}

const MEMORY_KEYS = {
  v1: { inactiveFile: 'total_inactive_file', rss: 'total_rss', faults: 'total_pgfault', majorFaults: 'total_pgmajfault' },
  v2: { inactiveFile: 'inactive_file', rss: 'anon', faults: 'pgfault', majorFaults: 'pgmajfault' },
} as const;

function memoryOf(version: 'v1' | 'v2', texts: { usage: string; limit: string; stat: string }): CgroupStats['memory'] {
  const keys = MEMORY_KEYS[version];
  const of = keyed(texts.stat);
  const number = (key: string): number => Number(of.get(key) ?? 0);
  const usageBytes = numberIn(texts.usage);
  const workingSetBytes = Math.max(0, usageBytes - number(keys.inactiveFile));
  const limitBytes = limitIn(texts.limit);
  return {
    usageBytes,
    workingSetBytes,
    rssBytes: number(keys.rss),
    pageFaults: number(keys.faults),
    majorPageFaults: number(keys.majorFaults),
    limitBytes,
    availableBytes: limitBytes === undefined ? undefined : Math.max(0, limitBytes - workingSetBytes),
  };
}

async function readV1(tree: Hierarchies, path: string): Promise<CgroupStats> {
  const read = (controller: string, file: string): Promise<string> => readIfThere(join(directoryOf(tree, path, controller), file));
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
  const pressure = tree.unified === undefined ? NO_PRESSURES : await readPressures(join(tree.unified, path));
  const memory = memoryOf('v1', { usage, limit, stat });
  const bothLimitBytes = limitIn(swapLimit);
  return {
    cpuUsageNs: BigInt(cpu.trim() || '0'),
    memory,
    // memsw counts memory and swap together.
    swap:
      swapUsage === ''
        ? undefined
        : {
            usageBytes: Math.max(0, numberIn(swapUsage) - memory.usageBytes),
            limitBytes: bothLimitBytes === undefined ? undefined : Math.max(0, bothLimitBytes - (memory.limitBytes ?? 0)),
          },
    pids: { current: numberIn(pids), limit: limitIn(pidsMax) },
    oomKillCount: Number(keyed(oom).get('oom_kill') ?? 0),
    pressure,
  };
}

async function readV2(dir: string): Promise<CgroupStats> {
  const read = (file: string): Promise<string> => readIfThere(join(dir, file));
  const [cpu, usage, limit, stat, events, pids, pidsMax, swapUsage, swapLimit] = await Promise.all([
    read('cpu.stat'),
    read('memory.current'),
    read('memory.max'),
    read('memory.stat'),
    read('memory.events'),
    read('pids.current'),
    read('pids.max'),
    read('memory.swap.current'),
    read('memory.swap.max'),
  ]);
  const pressure = await readPressures(dir);
  return {
    cpuUsageNs: BigInt(keyed(cpu).get('usage_usec') ?? '0') * 1000n,
    memory: memoryOf('v2', { usage, limit, stat }),
    swap: swapUsage === '' ? undefined : { usageBytes: numberIn(swapUsage), limitBytes: limitIn(swapLimit) },
    pids: { current: numberIn(pids), limit: limitIn(pidsMax) },
    oomKillCount: Number(keyed(events).get('oom_kill') ?? 0),
    pressure,
  };
}
