import type { ContainerRecord } from '../../container/record.ts';
import type { ContainerStats } from '../../gen/cri/runtime/v1/ContainerStats.ts';
import type { CpuUsage } from '../../gen/cri/runtime/v1/CpuUsage.ts';
import type { MemoryUsage } from '../../gen/cri/runtime/v1/MemoryUsage.ts';
import type { PodSandboxStats } from '../../gen/cri/runtime/v1/PodSandboxStats.ts';
import type { PodSandboxRecord } from '../../sandbox/record.ts';
import { usesHostNetwork } from '../../sandbox/record.ts';
import { podPaths } from '../../sandbox/paths.ts';
import type { Snapshotter } from '../../snapshot/snapshotter.ts';
import type { Sample, Sampler } from '../../stats/sampler.ts';
import { podNetwork } from '../../stats/pod-network.ts';

/** Where the figures come from. */
export interface StatsSource {
  readonly sampler: Sampler;
  readonly snapshotter: Snapshotter;
  readonly stateDir: string;
}

const value = (number: number | bigint): { value: string } => ({ value: String(number) });

const cpuView = (sample: Sample): CpuUsage => ({
  timestamp: String(sample.timestampNs),
  usageCoreNanoSeconds: value(sample.cpuUsageNs),
  usageNanoCores: sample.usageNanoCores === undefined ? null : value(sample.usageNanoCores),
});

const memoryView = ({ timestampNs, memory }: Sample): MemoryUsage => ({
  timestamp: String(timestampNs),
  workingSetBytes: value(memory.workingSetBytes),
  usageBytes: value(memory.usageBytes),
  rssBytes: value(memory.rssBytes),
  pageFaults: value(memory.pageFaults),
  majorPageFaults: value(memory.majorPageFaults),
  availableBytes: value(memory.limitBytes === undefined ? 0 : Math.max(0, memory.limitBytes - memory.workingSetBytes)),
});

/** Figures of a container; one that does not run any more has only its attributes. */
export async function containerStatsView(source: StatsSource, record: ContainerRecord): Promise<ContainerStats> {
  const { config } = record;
  const attributes = { id: record.id, metadata: config.metadata, labels: config.labels, annotations: config.annotations };
  const sample = await source.sampler.get(record.id);
  if (sample === undefined) return { attributes };
  const layer = await source.snapshotter.usage(record.id).catch(() => undefined);
  return {
    attributes,
    cpu: cpuView(sample),
    memory: memoryView(sample),
    writableLayer: {
      timestamp: String(sample.timestampNs),
      fsId: { mountpoint: source.snapshotter.root() },
      usedBytes: value(layer?.sizeBytes ?? 0),
      inodesUsed: value(layer?.inodes ?? 0),
    },
    swap: {
      timestamp: String(sample.timestampNs),
      swapUsageBytes: value(sample.swap?.usageBytes ?? 0),
      swapAvailableBytes: value(sample.swap?.limitBytes === undefined ? 0 : Math.max(0, sample.swap.limitBytes - sample.swap.usageBytes)),
    },
  };
}

/** Figures of a pod: of its cgroup as a whole, its network namespace, its containers. */
export async function podSandboxStatsView(
  source: StatsSource,
  sandbox: PodSandboxRecord,
  containers: readonly ContainerRecord[],
): Promise<PodSandboxStats> {
  const { config } = sandbox;
  const [sample, interfaces, each] = await Promise.all([
    source.sampler.read(sandbox.id, sandbox.cgroupParent),
    usesHostNetwork(config)
      ? []
      : podNetwork(`${podPaths(source.stateDir, sandbox.id).namespaces}/net`, containers.find((c) => c.process)?.process?.init.pid),
    Promise.all(containers.map((record) => containerStatsView(source, record))),
  ]);
  const views = interfaces.map((link) => ({
    name: link.name,
    rxBytes: value(link.rxBytes),
    rxErrors: value(link.rxErrors),
    txBytes: value(link.txBytes),
    txErrors: value(link.txErrors),
  }));
  return {
    attributes: { id: sandbox.id, metadata: config.metadata, labels: config.labels, annotations: config.annotations },
    linux: {
      cpu: cpuView(sample),
      memory: memoryView(sample),
      network: {
        timestamp: String(sample.timestampNs),
        defaultInterface: views.find(({ name }) => name === 'eth0') ?? null,
        interfaces: views,
      },
      process: { timestamp: String(sample.timestampNs), processCount: value(sample.pids.current) },
      containers: each,
    },
  };
}
