import { nowNs } from '../base/ids.ts';
import type { CgroupStats } from '../os/cgroup.ts';
import { readStats } from '../os/cgroup.ts';

/** One reading, and the rate since an earlier one. */
export interface Sample extends CgroupStats {
  readonly timestampNs: bigint;
  /** Nanoseconds of CPU per second; undefined until there are two readings. */
  readonly usageNanoCores: number | undefined;
}

export interface Sampler {
  register(id: string, cgroupPath: string): void;
  unregister(id: string): void;
  /** undefined for what is not registered. */
  get(id: string): Promise<Sample | undefined>;
  /** Of a cgroup that need not be registered, under a name for its rate. */
  read(id: string, cgroupPath: string): Promise<Sample>;
}

/** A reading this young answers again; the rate spans at least as long. */
const FRESH_MS = 1_000;

interface Entry {
  readonly path: string;
  last: { readonly sample: Sample; readonly atNs: bigint } | undefined;
  reading: Promise<Sample> | undefined;
}

export interface SamplerOptions {
  readonly freshMs?: number;
  readonly readStats?: (cgroupPath: string) => Promise<CgroupStats>;
  /** Nanoseconds of a clock that nobody sets. */
  readonly clock?: () => bigint;
}

/** Reads cgroups when asked, at most once a second each, and at once for everybody who asks (R5: polls don't pile up). Nobody asks: no work. */
export function createSampler(options: SamplerOptions = {}): Sampler {
  const { freshMs = FRESH_MS, readStats: readCgroup = readStats, clock = process.hrtime.bigint } = options;
  const freshNs = BigInt(freshMs) * 1_000_000n;
  const entries = new Map<string, Entry>();

  const entryOf = (id: string, path: string): Entry => {
    const known = entries.get(id);
    if (known?.path === path) return known;
    const entry: Entry = { path, last: undefined, reading: undefined };
    entries.set(id, entry);
    return entry;
  };

  const read = async (entry: Entry): Promise<Sample> => {
    const stats = await readCgroup(entry.path);
    const atNs = clock();
    const sample = { ...stats, timestampNs: nowNs(), usageNanoCores: rateOf(entry.last, stats.cpuUsageNs, atNs) };
    entry.last = { sample, atNs };
    return sample;
  };

  const sampleOf = async (entry: Entry): Promise<Sample> => {
    if (entry.last && clock() - entry.last.atNs < freshNs) return entry.last.sample;
    entry.reading ??= read(entry).finally(() => (entry.reading = undefined));
    return entry.reading;
  };

  return {
    register: (id, path) => void entryOf(id, path),
    unregister: (id) => void entries.delete(id),
    async get(id) {
      const entry = entries.get(id);
      return entry ? sampleOf(entry) : undefined;
    },
    read: (id, path) => sampleOf(entryOf(id, path)),
  };
}

// A cgroup that was made anew under its old path begins at zero again.
function rateOf(last: Entry['last'], cpuUsageNs: bigint, atNs: bigint): number | undefined {
  if (last === undefined || atNs <= last.atNs || cpuUsageNs < last.sample.cpuUsageNs) return undefined;
  return Number(((cpuUsageNs - last.sample.cpuUsageNs) * 1_000_000_000n) / (atNs - last.atNs));
}
