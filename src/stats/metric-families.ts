import type { LinuxContainerResources__Output } from '../gen/cri/runtime/v1/LinuxContainerResources.ts';
import type { CgroupDetail } from '../os/cgroup.ts';
import type { DeviceIo } from '../os/cgroup-detail.ts';
import type { PressureStall } from '../os/pressure.ts';
import type { ProcUsage } from '../os/proc-usage.ts';
import type { InterfaceCounters } from './pod-network.ts';
import type { Sample } from './sampler.ts';

/** One series of a family: the values of the family's own labels, and the figure. The CRI carries whole numbers only. */
export interface Series {
  readonly labels: readonly string[];
  readonly value: bigint | number;
}

/** A metric as cAdvisor names it, since that is what dashboards and alerts of Kubernetes ask for; one row says what it is called and where it comes from. */
export interface Family<Reading> {
  readonly name: string;
  readonly type: 'COUNTER' | 'GAUGE';
  readonly help: string;
  /** Keys beyond `BASE_LABELS`. */
  readonly labels: readonly string[];
  read(reading: Reading): readonly Series[];
}

/** Of every metric, with cAdvisor's meaning: `id` is the cgroup's path, `name` the container's id; a pod's own metrics have no name, image and container. */
export const BASE_LABELS = ['id', 'name', 'image', 'container', 'pod', 'namespace'] as const;

export interface CgroupReading {
  readonly sample: Sample;
  readonly detail: CgroupDetail;
}

export interface ContainerReading extends CgroupReading {
  readonly processes: ProcUsage;
  /** Of init. */
  readonly softNofile: number | undefined;
  readonly startedAtNs: bigint;
  readonly resources: LinuxContainerResources__Output | null;
  /** Path of each device in `detail.io`, in its order. */
  readonly ioDevices: readonly string[];
  /** The filesystem that the writable layer lies on, and what the layer takes of it; undefined: not measured yet. */
  readonly filesystem: Filesystem & { readonly usedBytes: number | undefined };
}

export interface Filesystem {
  readonly device: string;
  readonly sizeBytes: bigint;
  readonly inodes: bigint;
  readonly freeInodes: bigint;
}

type Read<Reading> = (reading: Reading) => bigint | number | undefined;

const single =
  (type: 'COUNTER' | 'GAUGE') =>
  <Reading>(name: string, help: string, read: Read<Reading>): Family<Reading> => ({
    name,
    type,
    help,
    labels: [],
    read(reading) {
      const value = read(reading);
      return value === undefined ? [] : [{ labels: [], value }];
    },
  });
const counter = single('COUNTER');
const gauge = single('GAUGE');

const seconds = (ns: bigint): bigint => ns / 1_000_000_000n;

const CPU: ReadonlyArray<Family<CgroupReading>> = [
  {
    name: 'container_cpu_usage_seconds_total',
    type: 'COUNTER',
    help: 'CPU time consumed in seconds.',
    labels: ['cpu'],
    read: ({ sample }) => [{ labels: ['total'], value: seconds(sample.cpuUsageNs) }],
  },
  counter('container_cpu_user_seconds_total', 'CPU time consumed in user mode in seconds.', ({ detail }) => seconds(detail.cpu.userNs)),
  counter('container_cpu_system_seconds_total', 'CPU time consumed in kernel mode in seconds.', ({ detail }) =>
    seconds(detail.cpu.systemNs),
  ),
  counter('container_cpu_cfs_periods_total', 'Periods of CPU quota enforcement that have elapsed.', ({ detail }) => detail.cpu.periods),
  counter('container_cpu_cfs_throttled_periods_total', 'Periods in which the CPU quota was used up.', ({ detail }) => {
    return detail.cpu.throttledPeriods;
  }),
  counter('container_cpu_cfs_throttled_seconds_total', 'Time spent throttled by the CPU quota in seconds.', ({ detail }) =>
    seconds(detail.cpu.throttledNs),
  ),
];

const MEMORY: ReadonlyArray<Family<CgroupReading>> = [
  gauge('container_memory_usage_bytes', 'Memory in use, page cache included.', ({ sample }) => sample.memory.usageBytes),
  gauge('container_memory_working_set_bytes', 'Memory in use less inactive page cache.', ({ sample }) => sample.memory.workingSetBytes),
  gauge('container_memory_max_usage_bytes', 'Highest memory use recorded.', ({ sample, detail }) =>
    // Unknown before Linux 5.19 on cgroup v2: then as high as it is now, at least.
    Math.max(detail.memory.maxUsageBytes ?? 0, sample.memory.usageBytes),
  ),
  gauge('container_memory_rss', 'Anonymous memory.', ({ sample }) => sample.memory.rssBytes),
  gauge('container_memory_cache', 'Page cache.', ({ detail }) => detail.memory.cacheBytes),
  gauge('container_memory_mapped_file', 'Page cache that is mapped by processes.', ({ detail }) => detail.memory.mappedFileBytes),
  gauge('container_memory_total_active_file_bytes', 'Page cache used of late.', ({ detail }) => detail.memory.activeFileBytes),
  gauge('container_memory_total_inactive_file_bytes', 'Page cache not used of late.', ({ detail }) => detail.memory.inactiveFileBytes),
  gauge('container_memory_kernel_usage', 'Memory that the kernel holds for the cgroup.', ({ detail }) => detail.memory.kernelBytes),
  // As cAdvisor: 0 also where the kernel doesn't account swap.
  gauge('container_memory_swap', 'Swap in use.', ({ sample }) => sample.swap?.usageBytes ?? 0),
  counter('container_memory_failcnt', 'Times that memory use met the limit.', ({ detail }) => detail.memory.limitHits),
  {
    name: 'container_memory_failures_total',
    type: 'COUNTER',
    help: 'Page faults, by type and by whether cgroups below are counted.',
    labels: ['failure_type', 'scope'],
    read: ({ sample, detail }) => [
      { labels: ['pgfault', 'container'], value: detail.memory.ownPageFaults },
      { labels: ['pgfault', 'hierarchy'], value: sample.memory.pageFaults },
      { labels: ['pgmajfault', 'container'], value: detail.memory.ownMajorPageFaults },
      { labels: ['pgmajfault', 'hierarchy'], value: sample.memory.majorPageFaults },
    ],
  },
  counter('container_oom_events_total', 'Processes ended for want of memory.', ({ sample }) => sample.oomKillCount),
];

type Resource = 'cpu' | 'memory' | 'io';

function pressure(resource: Resource, kind: keyof PressureStall, words: string): Family<CgroupReading> {
  const state = kind === 'some' ? 'waiting' : 'stalled';
  return counter(`container_pressure_${resource}_${state}_seconds_total`, words, ({ sample }) => {
    const stall = sample.pressure[resource];
    return stall && stall[kind].totalUs / 1_000_000n;
  });
}

const PRESSURE: ReadonlyArray<Family<CgroupReading>> = [
  pressure('cpu', 'some', 'Time in which some task waited for CPU in seconds.'),
  pressure('cpu', 'full', 'Time in which no task went on for want of CPU in seconds.'),
  pressure('memory', 'some', 'Time in which some task waited for memory in seconds.'),
  pressure('memory', 'full', 'Time in which no task went on for want of memory in seconds.'),
  pressure('io', 'some', 'Time in which some task waited for I/O in seconds.'),
  pressure('io', 'full', 'Time in which no task went on for want of I/O in seconds.'),
];

const HUGEPAGES: ReadonlyArray<Family<CgroupReading>> = [
  {
    name: 'container_hugetlb_usage_bytes',
    type: 'GAUGE',
    help: 'Huge pages in use, by page size.',
    labels: ['pagesize'],
    read: ({ detail }) => detail.hugepages.map(({ pageSize, usageBytes }) => ({ labels: [pageSize], value: usageBytes })),
  },
  {
    name: 'container_hugetlb_max_usage_bytes',
    type: 'GAUGE',
    help: 'Highest use of huge pages recorded, by page size.',
    labels: ['pagesize'],
    read: ({ detail }) =>
      detail.hugepages.flatMap(({ pageSize, maxUsageBytes }) =>
        maxUsageBytes === undefined ? [] : [{ labels: [pageSize], value: maxUsageBytes }],
      ),
  },
];

function onDevices(name: string, help: string, read: (io: DeviceIo) => bigint): Family<ContainerReading> {
  return {
    name,
    type: 'COUNTER',
    help,
    labels: ['device'],
    read: ({ detail, ioDevices }) => detail.io.map((io, index) => ({ labels: [ioDevices[index] ?? ''], value: read(io) })),
  };
}

function onFilesystem(
  name: string,
  help: string,
  read: (filesystem: ContainerReading['filesystem']) => bigint | number | undefined,
): Family<ContainerReading> {
  return {
    name,
    type: 'GAUGE',
    help,
    labels: ['device'],
    read({ filesystem }) {
      const value = read(filesystem);
      return value === undefined ? [] : [{ labels: [filesystem.device], value }];
    },
  };
}

const DISK: ReadonlyArray<Family<ContainerReading>> = [
  onFilesystem('container_fs_usage_bytes', 'Space that the writable layer takes.', ({ usedBytes }) => usedBytes),
  onFilesystem('container_fs_limit_bytes', 'Size of the filesystem under the writable layer.', ({ sizeBytes }) => sizeBytes),
  onFilesystem('container_fs_inodes_total', 'Inodes of the filesystem under the writable layer.', ({ inodes }) => inodes),
  onFilesystem('container_fs_inodes_free', 'Free inodes of the filesystem under the writable layer.', ({ freeInodes }) => freeInodes),
  onDevices('container_fs_reads_total', 'Reads completed.', ({ reads }) => reads),
  onDevices('container_fs_reads_bytes_total', 'Bytes read.', ({ readBytes }) => readBytes),
  onDevices('container_fs_writes_total', 'Writes completed.', ({ writes }) => writes),
  onDevices('container_fs_writes_bytes_total', 'Bytes written.', ({ writeBytes }) => writeBytes),
  {
    name: 'container_blkio_device_usage_total',
    type: 'COUNTER',
    help: 'Bytes read and written, by block device.',
    labels: ['device', 'major', 'minor', 'operation'],
    read: ({ detail, ioDevices }) =>
      detail.io.flatMap(({ major, minor, readBytes, writeBytes }, index) => {
        const device = [ioDevices[index] ?? '', String(major), String(minor)];
        return [
          { labels: [...device, 'Read'], value: readBytes },
          { labels: [...device, 'Write'], value: writeBytes },
        ];
      }),
  },
];

const PROCESSES: ReadonlyArray<Family<ContainerReading>> = [
  gauge('container_processes', 'Processes that run.', ({ processes }) => processes.processes),
  gauge('container_threads', 'Threads that run.', ({ sample }) => sample.pids.current),
  gauge('container_threads_max', 'Most threads that may run; 0: no limit.', ({ sample }) => sample.pids.limit ?? 0),
  gauge('container_file_descriptors', 'Open file descriptors.', ({ processes }) => processes.descriptors),
  gauge('container_sockets', 'Open sockets.', ({ processes }) => processes.sockets),
  {
    name: 'container_ulimits_soft',
    type: 'GAUGE',
    help: 'Soft limits of the first process; left out where there is none.',
    labels: ['ulimit'],
    read: ({ softNofile }) => (softNofile === undefined ? [] : [{ labels: ['max_open_files'], value: softNofile }]),
  },
];

/** The kernel's own, in force where nothing is asked. */
const DEFAULT_SHARES = 1024n;
const DEFAULT_PERIOD_US = 100_000n;

const asked = (text: string | undefined): bigint => BigInt(text === undefined || text === '' ? '0' : text);

const SPEC: ReadonlyArray<Family<ContainerReading>> = [
  gauge('container_last_seen', 'When it was looked at, in seconds since the epoch.', ({ sample }) => seconds(sample.timestampNs)),
  gauge('container_start_time_seconds', 'When it started, in seconds since the epoch.', ({ startedAtNs }) => seconds(startedAtNs)),
  gauge('container_spec_cpu_period', 'Period of the CPU quota in microseconds.', ({ resources }) => {
    return asked(resources?.cpuPeriod) || DEFAULT_PERIOD_US;
  }),
  gauge('container_spec_cpu_quota', 'CPU quota in microseconds per period; left out where there is none.', ({ resources }) => {
    const quota = asked(resources?.cpuQuota);
    return quota > 0n ? quota : undefined;
  }),
  gauge(
    'container_spec_cpu_shares',
    'CPU shares, on the scale of cgroup v1.',
    ({ resources }) => asked(resources?.cpuShares) || DEFAULT_SHARES,
  ),
  gauge('container_spec_memory_limit_bytes', 'Memory limit; 0: none.', ({ sample }) => sample.memory.limitBytes ?? 0),
  gauge('container_spec_memory_swap_limit_bytes', 'Swap limit; 0: none.', ({ sample }) => sample.swap?.limitBytes ?? 0),
  gauge('container_spec_memory_reservation_limit_bytes', 'Memory reservation; 0: none.', ({ detail }) => detail.memory.reservationBytes),
];

function onInterfaces(name: string, help: string, read: (link: InterfaceCounters) => number): Family<readonly InterfaceCounters[]> {
  return {
    name,
    type: 'COUNTER',
    help,
    labels: ['interface'],
    read: (links) => links.map((link) => ({ labels: [link.name], value: read(link) })),
  };
}

/** Of a pod's network namespace. */
export const NETWORK_FAMILIES: ReadonlyArray<Family<readonly InterfaceCounters[]>> = [
  onInterfaces('container_network_receive_bytes_total', 'Bytes received.', ({ rxBytes }) => rxBytes),
  onInterfaces('container_network_receive_packets_total', 'Packets received.', ({ rxPackets }) => rxPackets),
  onInterfaces('container_network_receive_packets_dropped_total', 'Packets dropped on receipt.', ({ rxDropped }) => rxDropped),
  onInterfaces('container_network_receive_errors_total', 'Errors on receipt.', ({ rxErrors }) => rxErrors),
  onInterfaces('container_network_transmit_bytes_total', 'Bytes sent.', ({ txBytes }) => txBytes),
  onInterfaces('container_network_transmit_packets_total', 'Packets sent.', ({ txPackets }) => txPackets),
  onInterfaces('container_network_transmit_packets_dropped_total', 'Packets dropped on sending.', ({ txDropped }) => txDropped),
  onInterfaces('container_network_transmit_errors_total', 'Errors on sending.', ({ txErrors }) => txErrors),
];

/** Of the pod's cgroup as a whole, as cAdvisor tells them of it. */
export const POD_FAMILIES: ReadonlyArray<Family<CgroupReading>> = [...CPU, ...MEMORY, ...PRESSURE];

export const CONTAINER_FAMILIES: ReadonlyArray<Family<ContainerReading>> = [...POD_FAMILIES, ...HUGEPAGES, ...DISK, ...PROCESSES, ...SPEC];
