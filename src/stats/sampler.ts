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
const FRESH_NS = 1_000_000_000n;

interface Entry {
  readonly path: string;
  last: Sample | undefined;
  reading: Promise<Sample> | undefined;
}

/** Reads cgroups when asked, at most once a second each, and at once for everybody who asks (R5: polls don't pile up). */
export function createSampler(): Sampler {
  const entries = new Map<string, Entry>();

  const entryOf = (id: string, path: string): Entry => {
    const known = entries.get(id);
    if (known) return known;
    const entry: Entry = { path, last: undefined, reading: undefined };
    entries.set(id, entry);
    return entry;
  };

  const sampleOf = async (entry: Entry): Promise<Sample> => {
    if (entry.last && nowNs() - entry.last.timestampNs < FRESH_NS) return entry.last;
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

async function read(entry: Entry): Promise<Sample> {
  const stats = await readStats(entry.path);
  const timestampNs = nowNs();
  const since = entry.last;
  const rate = since ? Number(((stats.cpuUsageNs - since.cpuUsageNs) * 1_000_000_000n) / (timestampNs - since.timestampNs)) : undefined;
  const sample = { ...stats, timestampNs, usageNanoCores: rate === undefined ? undefined : Math.max(0, rate) };
  entry.last = sample;
  return sample;
}
