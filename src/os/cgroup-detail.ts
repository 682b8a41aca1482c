import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import type { Hierarchies } from './cgroup-hierarchies.ts';
import { directoryOf } from './cgroup-hierarchies.ts';
import { keyed, limitIn, numberIn, readIfThere } from './cgroup-stats.ts';

/** Reads and writes of one block device. */
export interface DeviceIo {
  readonly major: number;
  readonly minor: number;
  readonly readBytes: bigint;
  readonly writeBytes: bigint;
  readonly reads: bigint;
  readonly writes: bigint;
}

export interface HugepageUsage {
  /** As the kernel spells it: `2MB`. */
  readonly pageSize: string;
  readonly usageBytes: number;
  /** undefined: v2 doesn't keep it. */
  readonly maxUsageBytes: number | undefined;
}

/** What pod metrics tell of a cgroup beyond `CgroupStats`; what the kernel doesn't keep is zero. Of the cgroup and all below it. */
export interface CgroupDetail {
  readonly cpu: {
    readonly userNs: bigint;
    readonly systemNs: bigint;
    readonly periods: bigint;
    readonly throttledPeriods: bigint;
    readonly throttledNs: bigint;
  };
  readonly memory: {
    readonly cacheBytes: number;
    readonly mappedFileBytes: number;
    readonly activeFileBytes: number;
    readonly inactiveFileBytes: number;
    readonly kernelBytes: number;
    /** undefined: before Linux 5.19 v2 doesn't keep it. */
    readonly maxUsageBytes: number | undefined;
    /** How often usage met the limit. */
    readonly limitHits: bigint;
    /** Soft limit, or protection on v2; 0: none. */
    readonly reservationBytes: number;
    /** Of the cgroup itself; the same as those below it on v2, which doesn't tell them apart. */
    readonly ownPageFaults: number;
    readonly ownMajorPageFaults: number;
  };
  readonly io: readonly DeviceIo[];
  readonly hugepages: readonly HugepageUsage[];
}

export async function readDetailIn(tree: Hierarchies, path: string): Promise<CgroupDetail> {
  return tree.mode === 'v2' ? readV2(directoryOf(tree, path, '')) : readV1(tree, path);
}

const bigIn = (text: string | undefined): bigint => (/^\d+$/.test(text?.trim() ?? '') ? BigInt((text ?? '').trim()) : 0n);

const numbersOf = (text: string): ((key: string) => number) => {
  const values = keyed(text);
  return (key) => Number(values.get(key) ?? 0);
};

async function readV1(tree: Hierarchies, path: string): Promise<CgroupDetail> {
  const read = (controller: string, file: string): Promise<string> => readIfThere(join(directoryOf(tree, path, controller), file));
  const [user, system, cpu, stat, kernel, max, hits, soft, bytes, operations, hugepages] = await Promise.all([
    read('cpuacct', 'cpuacct.usage_user'),
    read('cpuacct', 'cpuacct.usage_sys'),
    read('cpu', 'cpu.stat'),
    read('memory', 'memory.stat'),
    read('memory', 'memory.kmem.usage_in_bytes'),
    read('memory', 'memory.max_usage_in_bytes'),
    read('memory', 'memory.failcnt'),
    read('memory', 'memory.soft_limit_in_bytes'),
    read('blkio', 'blkio.throttle.io_service_bytes_recursive'),
    read('blkio', 'blkio.throttle.io_serviced_recursive'),
    tree.v1.has('hugetlb') ? hugepagesIn(directoryOf(tree, path, 'hugetlb')) : [],
  ]);
  const throttling = keyed(cpu);
  const memory = numbersOf(stat);
  return {
    cpu: {
      userNs: bigIn(user),
      systemNs: bigIn(system),
      periods: bigIn(throttling.get('nr_periods')),
      throttledPeriods: bigIn(throttling.get('nr_throttled')),
      throttledNs: bigIn(throttling.get('throttled_time')),
    },
    memory: {
      cacheBytes: memory('total_cache'),
      mappedFileBytes: memory('total_mapped_file'),
      activeFileBytes: memory('total_active_file'),
      inactiveFileBytes: memory('total_inactive_file'),
      kernelBytes: numberIn(kernel),
      maxUsageBytes: numberIn(max),
      limitHits: bigIn(hits),
      reservationBytes: limitIn(soft) ?? 0,
      ownPageFaults: memory('pgfault'),
      ownMajorPageFaults: memory('pgmajfault'),
    },
    io: blkioOf(bytes, operations),
    hugepages,
  };
}

async function readV2(dir: string): Promise<CgroupDetail> {
  const read = (file: string): Promise<string> => readIfThere(join(dir, file));
  const [cpu, stat, peak, events, low, io, hugepages] = await Promise.all([
    read('cpu.stat'),
    read('memory.stat'),
    read('memory.peak'),
    read('memory.events'),
    read('memory.low'),
    read('io.stat'),
    hugepagesIn(dir),
  ]);
  const times = keyed(cpu);
  const memory = numbersOf(stat);
  // `kernel` is the sum since Linux 5.18.
  const kernelBytes =
    memory('kernel') || memory('kernel_stack') + memory('pagetables') + memory('percpu') + memory('slab') + memory('sock');
  return {
    cpu: {
      userNs: bigIn(times.get('user_usec')) * 1000n,
      systemNs: bigIn(times.get('system_usec')) * 1000n,
      periods: bigIn(times.get('nr_periods')),
      throttledPeriods: bigIn(times.get('nr_throttled')),
      throttledNs: bigIn(times.get('throttled_usec')) * 1000n,
    },
    memory: {
      cacheBytes: memory('file'),
      mappedFileBytes: memory('file_mapped'),
      activeFileBytes: memory('active_file'),
      inactiveFileBytes: memory('inactive_file'),
      kernelBytes,
      maxUsageBytes: peak === '' ? undefined : numberIn(peak),
      limitHits: bigIn(keyed(events).get('max')),
      reservationBytes: limitIn(low) ?? 0,
      ownPageFaults: memory('pgfault'),
      ownMajorPageFaults: memory('pgmajfault'),
    },
    io: ioStatOf(io),
    hugepages,
  };
}

const NO_IO = { readBytes: 0n, writeBytes: 0n, reads: 0n, writes: 0n };

/** Lines `8:0 Read 4096` of both files (kernel, cgroup-v1/blkio-controller). */
function blkioOf(bytes: string, operations: string): DeviceIo[] {
  const devices = new Map<string, DeviceIo>();
  const take = (text: string, of: Readonly<Record<string, keyof typeof NO_IO>>): void => {
    for (const line of text.split('\n')) {
      const match = /^(\d+):(\d+) (\w+) (\d+)$/.exec(line);
      const key = of[match?.[3] ?? ''];
      if (!match || key === undefined) continue;
      const device = `${match[1]}:${match[2]}`;
      const known = devices.get(device) ?? { major: Number(match[1]), minor: Number(match[2]), ...NO_IO };
      devices.set(device, { ...known, [key]: BigInt(match[4] ?? '0') });
    }
  };
  take(bytes, { Read: 'readBytes', Write: 'writeBytes' });
  take(operations, { Read: 'reads', Write: 'writes' });
  return [...devices.values()];
}

/** Lines `8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0` of io.stat. */
function ioStatOf(text: string): DeviceIo[] {
  return text.split('\n').flatMap((line) => {
    const match = /^(\d+):(\d+) (.*)$/.exec(line);
    if (!match) return [];
    const values = new Map((match[3] ?? '').split(' ').map((pair) => pair.split('=') as [string, string]));
    return [
      {
        major: Number(match[1]),
        minor: Number(match[2]),
        readBytes: bigIn(values.get('rbytes')),
        writeBytes: bigIn(values.get('wbytes')),
        reads: bigIn(values.get('rios')),
        writes: bigIn(values.get('wios')),
      },
    ];
  });
}

async function hugepagesIn(dir: string): Promise<HugepageUsage[]> {
  const names = await readdir(dir).catch(() => []);
  const sizes = names.flatMap((name) => {
    const match = /^hugetlb\.([^.]+)\.(current|usage_in_bytes)$/.exec(name);
    return match?.[1] === undefined ? [] : [{ pageSize: match[1], file: name }];
  });
  return Promise.all(
    sizes.map(async ({ pageSize, file }) => {
      const max = await readIfThere(join(dir, `hugetlb.${pageSize}.max_usage_in_bytes`));
      return { pageSize, usageBytes: numberIn(await readIfThere(join(dir, file))), maxUsageBytes: max === '' ? undefined : numberIn(max) };
    }),
  );
}
