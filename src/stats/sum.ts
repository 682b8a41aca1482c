import { NO_PRESSURES } from '../os/pressure.ts';
import type { Sample } from './sampler.ts';

const total = (values: readonly number[]): number => values.reduce((sum, value) => sum + value, 0);

/** Limits and what is left of them mean nothing across cgroups. */
const UNLIMITED = { limitBytes: undefined, availableBytes: undefined };

/** Figures of containers as a pod's, for one that has no cgroup of its own. A rate is known when all are; pressure isn't. undefined: there is nothing to add up. */
export function sumOf(samples: readonly Sample[]): Sample | undefined {
  const [first] = samples;
  if (first === undefined) return undefined;
  const memory = (key: 'usageBytes' | 'workingSetBytes' | 'rssBytes' | 'pageFaults' | 'majorPageFaults'): number =>
    total(samples.map((sample) => sample.memory[key]));
  const rates = samples.flatMap(({ usageNanoCores }) => usageNanoCores ?? []);
  const swaps = samples.flatMap(({ swap }) => swap ?? []);
  return {
    timestampNs: first.timestampNs,
    cpuUsageNs: samples.reduce((sum, { cpuUsageNs }) => sum + cpuUsageNs, 0n),
    usageNanoCores: rates.length === samples.length ? total(rates) : undefined,
    memory: {
      usageBytes: memory('usageBytes'),
      workingSetBytes: memory('workingSetBytes'),
      rssBytes: memory('rssBytes'),
      pageFaults: memory('pageFaults'),
      majorPageFaults: memory('majorPageFaults'),
      ...UNLIMITED,
    },
    swap: swaps.length === 0 ? undefined : { usageBytes: total(swaps.map(({ usageBytes }) => usageBytes)), limitBytes: undefined },
    pids: { current: total(samples.map(({ pids }) => pids.current)), limit: undefined },
    oomKillCount: total(samples.map(({ oomKillCount }) => oomKillCount)),
    pressure: NO_PRESSURES,
  };
}
