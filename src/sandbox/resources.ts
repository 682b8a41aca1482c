import { ClassifiedError, messageOf } from '../base/errors.ts';
import type { LinuxContainerResources__Output } from '../gen/cri/runtime/v1/LinuxContainerResources.ts';
import type { CgroupResources } from '../os/cgroup.ts';
import { cgroupExists, createCgroup, readStats, removeCgroup, setResources } from '../os/cgroup.ts';
import type { PodSandboxRecord } from './record.ts';

type Limits = LinuxContainerResources__Output;

/** Pod-level resources (KEP-2837): what the containers may use together, and what the sandbox takes beside them. */
export interface PodResources {
  readonly overhead: Limits | null;
  readonly resources: Limits | null;
}

/** Those of the last update, or else of the config. */
export const resourcesInForce = ({ config, overhead, resources }: PodSandboxRecord): PodResources => ({
  overhead: overhead ?? config.linux?.overhead ?? null,
  resources: resources ?? config.linux?.resources ?? null,
});

const MAX_SHARES = 262_144;
const DEFAULT_PERIOD_US = 100_000;

const number = (limits: Limits | null, key: 'cpuShares' | 'cpuQuota' | 'cpuPeriod' | 'memoryLimitInBytes'): number =>
  Math.max(0, Number(limits?.[key] || 0));

/** Limits of the pod's cgroup: the sum of both. Where the containers have no limit the pod has none, whatever its overhead; undefined shares are left as they are. */
export function podLimits({ overhead, resources }: PodResources): CgroupResources & { cpuQuotaUs: number; memoryLimitBytes: number } {
  const shares = number(resources, 'cpuShares') + number(overhead, 'cpuShares');
  const cpuPeriodUs = number(resources, 'cpuPeriod') || DEFAULT_PERIOD_US;
  const quota = number(resources, 'cpuQuota');
  const overheadPeriodUs = number(overhead, 'cpuPeriod') || DEFAULT_PERIOD_US;
  const memory = number(resources, 'memoryLimitInBytes');
  return {
    ...(shares > 0 ? { cpuShares: Math.min(shares, MAX_SHARES) } : {}),
    cpuPeriodUs,
    cpuQuotaUs: quota > 0 ? quota + Math.trunc((number(overhead, 'cpuQuota') * cpuPeriodUs) / overheadPeriodUs) : 0,
    memoryLimitBytes: memory > 0 ? memory + number(overhead, 'memoryLimitInBytes') : 0,
  };
}

type Store = { values(): readonly PodSandboxRecord[] };

/** Whether a cgroup that a new pod names is ours to remove: nobody has made it yet, or another pod's ownership made it, which is then shared. */
export const isOurs = (store: Store, cgroupParent: string): boolean =>
  !cgroupExists(cgroupParent) || store.values().some((other) => other.ownsCgroupParent && other.cgroupParent === cgroupParent);

/** Unless it isn't ours, or another pod is in it or below it: the last one takes it along. Missing is fine. */
export async function removePodCgroup(store: Store, { id, cgroupParent, ownsCgroupParent }: PodSandboxRecord): Promise<void> {
  if (!ownsCgroupParent) return;
  const isUsedBy = (other: PodSandboxRecord): boolean =>
    other.id !== id && other.state !== 'removing' && `${other.cgroupParent}/`.startsWith(`${cgroupParent}/`);
  if (!store.values().some(isUsedBy)) await removeCgroup(cgroupParent);
}

/** Makes the pod's cgroup with its limits, before anything is in it. Without limits it comes with the first container. */
export async function createPodCgroup(record: PodSandboxRecord): Promise<void> {
  const limits = podLimits(resourcesInForce(record));
  if (limits.cpuShares === undefined && limits.cpuQuotaUs === 0 && limits.memoryLimitBytes === 0) return;
  await createCgroup(record.cgroupParent);
  await setResources(record.cgroupParent, limits);
}

/**
 * Changes the limits of a pod's cgroup. failedPrecondition when more memory is in use than would be allowed (cgroup v2 would end processes for it),
 * or when the kernel refuses; then the old limits stand.
 */
export async function changePodCgroup(record: PodSandboxRecord, to: PodResources): Promise<void> {
  const path = record.cgroupParent;
  const [from, limits] = [podLimits(resourcesInForce(record)), podLimits(to)];
  await createCgroup(path);
  const { memory } = await readStats(path);
  if (limits.memoryLimitBytes > 0 && memory.usageBytes > limits.memoryLimitBytes) {
    const words = `${memory.usageBytes} bytes are in use, more than the ${limits.memoryLimitBytes} allowed`;
    throw new ClassifiedError('failedPrecondition', `resources.memory_limit_in_bytes: ${words}`);
  }
  try {
    await setResources(path, limits);
  } catch (error) {
    await setResources(path, from).catch(() => undefined);
    throw new ClassifiedError('failedPrecondition', `update pod sandbox ${record.id}: ${messageOf(error)}`, { cause: error });
  }
}
