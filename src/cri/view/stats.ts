import { nowNs } from '../../base/ids.ts';
import type { ContainerRecord } from '../../container/record.ts';
import type { ContainerStats } from '../../gen/cri/runtime/v1/ContainerStats.ts';
import type { CpuUsage } from '../../gen/cri/runtime/v1/CpuUsage.ts';
import type { IoUsage } from '../../gen/cri/runtime/v1/IoUsage.ts';
import type { MemoryUsage } from '../../gen/cri/runtime/v1/MemoryUsage.ts';
import type { NetworkInterfaceUsage } from '../../gen/cri/runtime/v1/NetworkInterfaceUsage.ts';
import type { NetworkUsage } from '../../gen/cri/runtime/v1/NetworkUsage.ts';
import type { PodSandboxStats } from '../../gen/cri/runtime/v1/PodSandboxStats.ts';
import type { PsiData } from '../../gen/cri/runtime/v1/PsiData.ts';
import type { PsiStats } from '../../gen/cri/runtime/v1/PsiStats.ts';
import type { SwapUsage } from '../../gen/cri/runtime/v1/SwapUsage.ts';
import { cgroupExists } from '../../os/cgroup.ts';
import type { Pressure, PressureStall } from '../../os/pressure.ts';
import type { PodSandboxRecord } from '../../sandbox/record.ts';
import { podCgroupPath, usesHostNetwork } from '../../sandbox/record.ts';
import { podPaths } from '../../sandbox/paths.ts';
import type { Snapshotter } from '../../snapshot/snapshotter.ts';
import type { LayerUsages } from '../../stats/layer-usage.ts';
import type { InterfaceCounters } from '../../stats/pod-network.ts';
import { podNetwork } from '../../stats/pod-network.ts';
import type { Sample, Sampler } from '../../stats/sampler.ts';
import { sumOf } from '../../stats/sum.ts';

/** Where the figures come from. */
export interface StatsSource {
  readonly sampler: Sampler;
  readonly snapshotter: Snapshotter;
  readonly layers: LayerUsages;
  readonly stateDir: string;
}

const value = (number: number | bigint): { value: string } => ({ value: String(number) });

/** The wire wants nanoseconds. */
const psiData = ({ totalUs, avg10, avg60, avg300 }: Pressure): PsiData => ({
  Total: String(totalUs * 1000n),
  Avg10: avg10,
  Avg60: avg60,
  Avg300: avg300,
});

const psiView = (stall: PressureStall | undefined): PsiStats | null =>
  stall === undefined ? null : { Some: psiData(stall.some), Full: psiData(stall.full) };

const cpuView = (sample: Sample): CpuUsage => ({
  timestamp: String(sample.timestampNs),
  usageCoreNanoSeconds: value(sample.cpuUsageNs),
  usageNanoCores: sample.usageNanoCores === undefined ? null : value(sample.usageNanoCores),
  psi: psiView(sample.pressure.cpu),
});

/** `available_bytes` is left out where there is no limit, as cAdvisor does. */
const memoryView = ({ timestampNs, memory, pressure }: Sample): MemoryUsage => ({
  timestamp: String(timestampNs),
  workingSetBytes: value(memory.workingSetBytes),
  usageBytes: value(memory.usageBytes),
  rssBytes: value(memory.rssBytes),
  pageFaults: value(memory.pageFaults),
  majorPageFaults: value(memory.majorPageFaults),
  availableBytes: memory.availableBytes === undefined ? null : value(memory.availableBytes),
  psi: psiView(pressure.memory),
});

const ioView = ({ timestampNs, pressure }: Sample): IoUsage | null =>
  pressure.io === undefined ? null : { timestamp: String(timestampNs), psi: psiView(pressure.io) };

/** null where the kernel doesn't account swap. */
function swapView({ timestampNs, swap }: Sample): SwapUsage | null {
  if (swap === undefined) return null;
  const { usageBytes, limitBytes } = swap;
  return {
    timestamp: String(timestampNs),
    swapUsageBytes: value(usageBytes),
    swapAvailableBytes: limitBytes === undefined ? null : value(Math.max(0, limitBytes - usageBytes)),
  };
}

/** null on the host's network: kubelet reads the default interface without looking whether there is one. */
function networkView(sample: Sample | undefined, links: readonly InterfaceCounters[]): NetworkUsage | null {
  const main = links.find(({ name }) => name === 'eth0') ?? links[0];
  if (main === undefined) return null;
  return {
    timestamp: String(sample?.timestampNs ?? nowNs()),
    defaultInterface: interfaceView(main),
    // The others only (CRI, NetworkUsage).
    interfaces: links.filter((link) => link !== main).map(interfaceView),
  };
}

const interfaceView = ({ name, rxBytes, rxErrors, txBytes, txErrors }: InterfaceCounters): NetworkInterfaceUsage => ({
  name,
  rxBytes: value(rxBytes),
  rxErrors: value(rxErrors),
  txBytes: value(txBytes),
  txErrors: value(txErrors),
});

const sampleOf = async (source: StatsSource, record: ContainerRecord): Promise<Sample | undefined> =>
  record.state === 'running' ? source.sampler.get(record.id) : undefined;

/** Figures of a container. One that doesn't run has its attributes and its writable layer only, as with containerd: kubelet counts that against the pod. */
export async function containerStatsView(source: StatsSource, record: ContainerRecord): Promise<ContainerStats> {
  const { config, id, exit } = record;
  const [sample, layer] = await Promise.all([sampleOf(source, record), source.layers.of({ id, config, finishedAtNs: exit?.finishedAtNs })]);
  const writableLayer = layer && {
    timestamp: String(sample?.timestampNs ?? nowNs()),
    fsId: { mountpoint: source.snapshotter.root() },
    usedBytes: value(layer.sizeBytes),
    inodesUsed: value(layer.inodes),
  };
  return {
    attributes: { id, metadata: config.metadata, labels: config.labels, annotations: config.annotations },
    ...(writableLayer ? { writableLayer } : {}),
    ...(sample ? { cpu: cpuView(sample), memory: memoryView(sample), swap: swapView(sample), io: ioView(sample) } : {}),
  };
}

/** Figures of a pod: of its cgroup as a whole, or what its containers come to where it has none; its network namespace; its containers. */
export async function podSandboxStatsView(
  source: StatsSource,
  sandbox: PodSandboxRecord,
  containers: readonly ContainerRecord[],
): Promise<PodSandboxStats> {
  const { config } = sandbox;
  const [sample, interfaces, each] = await Promise.all([
    podSample(source, sandbox, containers),
    usesHostNetwork(config)
      ? []
      : podNetwork(
          `${podPaths(source.stateDir, sandbox.id).namespaces}/net`,
          containers.find((c) => c.state === 'running')?.process?.init.pid,
        ),
    Promise.all(containers.map((record) => containerStatsView(source, record))),
  ]);
  return {
    attributes: { id: sandbox.id, metadata: config.metadata, labels: config.labels, annotations: config.annotations },
    linux: {
      ...(sample
        ? {
            cpu: cpuView(sample),
            memory: memoryView(sample),
            io: ioView(sample),
            process: { timestamp: String(sample.timestampNs), processCount: value(sample.pids.current) },
          }
        : {}),
      network: networkView(sample, interfaces),
      containers: each,
    },
  };
}

async function podSample(
  source: StatsSource,
  sandbox: PodSandboxRecord,
  containers: readonly ContainerRecord[],
): Promise<Sample | undefined> {
  const path = podCgroupPath(sandbox);
  if (path !== undefined) return cgroupExists(path) ? source.sampler.read(sandbox.id, path) : undefined;
  return sumOf((await Promise.all(containers.map((record) => sampleOf(source, record)))).filter((sample) => sample !== undefined));
}
