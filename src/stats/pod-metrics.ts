import { statfs } from 'node:fs/promises';
import { nowNs } from '../base/ids.ts';
import type { LinuxContainerResources__Output } from '../gen/cri/runtime/v1/LinuxContainerResources.ts';
import { deviceName, deviceOf } from '../os/block-device.ts';
import type { CgroupDetail } from '../os/cgroup.ts';
import { cgroupExists, procsIn, readDetail } from '../os/cgroup.ts';
import type { ProcUsage } from '../os/proc-usage.ts';
import { procUsage, softNofileOf } from '../os/proc-usage.ts';
import type { Snapshotter } from '../snapshot/snapshotter.ts';
import type { CgroupReading, ContainerReading, Family, Filesystem } from './metric-families.ts';
import { CONTAINER_FAMILIES, NETWORK_FAMILIES, POD_FAMILIES } from './metric-families.ts';
import type { LayerUsages } from './layer-usage.ts';
import { podNetwork } from './pod-network.ts';
import { Recent } from './recent.ts';
import type { Sample, Sampler } from './sampler.ts';

/** One figure: label values in the order of `BASE_LABELS` and then of the family's own. */
export interface MetricValue {
  readonly family: Pick<Family<never>, 'name' | 'type'>;
  readonly labels: readonly string[];
  readonly value: bigint | number;
  readonly timestampNs: bigint;
}

export interface PodMetrics {
  readonly sandboxId: string;
  readonly metrics: readonly MetricValue[];
  readonly containers: ReadonlyArray<{ readonly containerId: string; readonly metrics: readonly MetricValue[] }>;
}

/** A container that runs, as far as measuring it needs. */
export interface MeasuredContainer {
  readonly id: string;
  readonly name: string;
  readonly image: string;
  readonly cgroupPath: string;
  /** Of init. */
  readonly pid: number;
  readonly startedAtNs: bigint;
  readonly resources: LinuxContainerResources__Output | null;
  /** As `MeasuredLayer` has it. */
  readonly config: object;
}

/** A ready pod with its containers that run. */
export interface MeasuredPod {
  readonly id: string;
  readonly name: string;
  readonly namespace: string;
  /** undefined: it has none of its own. */
  readonly cgroupPath: string | undefined;
  /** undefined: it is on the host's network. */
  readonly netnsPath: string | undefined;
  readonly containers: readonly MeasuredContainer[];
}

/** Where the figures come from. */
export interface MetricsSource {
  readonly sampler: Sampler;
  readonly snapshotter: Pick<Snapshotter, 'root'>;
  readonly layers: LayerUsages;
}

const details = new Recent<CgroupDetail>();
const usages = new Recent<ProcUsage>();
const filesystems = new Recent<Filesystem>();

/** Metrics of a pod: of its cgroup, its network namespace and each container. A cgroup is read at most once a second, whoever asks. */
export async function podMetrics(source: MetricsSource, pod: MeasuredPod): Promise<PodMetrics> {
  const { id, cgroupPath, netnsPath } = pod;
  const base = [cgroupPath ?? '', '', '', '', pod.name, pod.namespace];
  const [own, interfaces, containers] = await Promise.all([
    // Without a container there may be no cgroup yet: what isn't there has no figures, not zeroes.
    cgroupPath !== undefined && cgroupExists(cgroupPath) ? cgroupReading(source.sampler.read(id, cgroupPath), cgroupPath) : undefined,
    netnsPath === undefined ? [] : podNetwork(netnsPath, pod.containers[0]?.pid),
    Promise.all(pod.containers.map((container) => containerMetrics(source, container, pod))),
  ]);
  const atNs = nowNs();
  return {
    sandboxId: id,
    metrics: [...(own ? valuesOf(POD_FAMILIES, own, base, atNs) : []), ...valuesOf(NETWORK_FAMILIES, interfaces, base, atNs)],
    containers: containers.filter((metrics) => metrics !== undefined),
  };
}

async function containerMetrics(
  source: MetricsSource,
  container: MeasuredContainer,
  pod: MeasuredPod,
): Promise<PodMetrics['containers'][number] | undefined> {
  const { id, cgroupPath, image, name } = container;
  const reading = await containerReading(source, container);
  // Zeroes of a cgroup that went meanwhile would look like counters that began anew.
  if (reading === undefined || !cgroupExists(cgroupPath)) return undefined;
  const base = [cgroupPath, id, image, name, pod.name, pod.namespace];
  return { containerId: id, metrics: valuesOf(CONTAINER_FAMILIES, reading, base, reading.sample.timestampNs) };
}

async function cgroupReading(reading: Sample | Promise<Sample>, path: string): Promise<CgroupReading> {
  const [sample, detail] = await Promise.all([reading, details.of(path, () => readDetail(path))]);
  return { sample, detail };
}

async function containerReading(source: MetricsSource, container: MeasuredContainer): Promise<ContainerReading | undefined> {
  const { id, cgroupPath: path, startedAtNs, resources, config } = container;
  const sample = await source.sampler.get(id);
  if (sample === undefined) return undefined;
  const root = source.snapshotter.root();
  const [cgroup, processes, softNofile, filesystem, layer] = await Promise.all([
    cgroupReading(sample, path),
    usages.of(path, async () => procUsage(await procsIn(path))),
    softNofileOf(container.pid),
    filesystems.of(root, () => filesystemOf(root)),
    source.layers.of({ id, config, finishedAtNs: undefined }),
  ]);
  return {
    ...cgroup,
    processes,
    softNofile,
    startedAtNs,
    resources,
    ioDevices: await Promise.all(cgroup.detail.io.map(({ major, minor }) => deviceName(major, minor))),
    filesystem: { ...filesystem, usedBytes: layer?.sizeBytes },
  };
}

async function filesystemOf(root: string): Promise<Filesystem> {
  const [device, { blocks, bsize, files, ffree }] = await Promise.all([deviceOf(root), statfs(root, { bigint: true })]);
  return { device, sizeBytes: blocks * bsize, inodes: files, freeInodes: ffree };
}

function valuesOf<Reading>(
  families: ReadonlyArray<Family<Reading>>,
  reading: Reading,
  base: readonly string[],
  timestampNs: bigint,
): MetricValue[] {
  return families.flatMap((family) =>
    family.read(reading).map(({ labels, value }) => ({ family, labels: [...base, ...labels], value, timestampNs })),
  );
}
