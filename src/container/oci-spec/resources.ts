import { invalidArgument } from '../../base/errors.ts';
import type { LinuxContainerResources__Output } from '../../gen/cri/runtime/v1/LinuxContainerResources.ts';
import type { CgroupLimits, CgroupMode } from '../../os/cgroup.ts';
import type { OciResources } from './spec-types.ts';

/**
 * CRI resources as the OCI spec has them; zero is "not set". Limits of swap and huge pages are left out where the kernel has none: kubelet sends them to every
 * node, and a runtime would fail each container of it (F17). invalidArgument: `unified` on a host without cgroup v2.
 */
export function resourcesOf(
  limits: LinuxContainerResources__Output | null,
  host: { readonly cgroupMode: CgroupMode; readonly cgroupLimits: CgroupLimits },
): OciResources {
  if (limits === null) return {};
  const unified = Object.keys(limits.unified);
  if (unified.length > 0 && host.cgroupMode !== 'v2')
    throw invalidArgument('config.linux.resources.unified', 'needs cgroup v2, this host has v1 controllers');
  const limit = numberOf(limits.memoryLimitInBytes);
  // Kubernetes' nodes do not swap unless asked to: memory and swap together get what memory gets.
  const swap = host.cgroupLimits.swap ? (numberOf(limits.memorySwapLimitInBytes) ?? limit) : undefined;
  const memory = { ...(limit === undefined ? {} : { limit }), ...(swap === undefined ? {} : { swap }) };
  const cpu = {
    ...optional('shares', numberOf(limits.cpuShares)),
    ...optional('quota', numberOf(limits.cpuQuota)),
    ...optional('period', numberOf(limits.cpuPeriod)),
    ...(limits.cpusetCpus === '' ? {} : { cpus: limits.cpusetCpus }),
    ...(limits.cpusetMems === '' ? {} : { mems: limits.cpusetMems }),
  };
  return {
    ...(Object.keys(memory).length > 0 ? { memory } : {}),
    ...(Object.keys(cpu).length > 0 ? { cpu } : {}),
    ...(host.cgroupLimits.hugepages && limits.hugepageLimits.length > 0
      ? { hugepageLimits: limits.hugepageLimits.map(({ pageSize, limit: bytes }) => ({ pageSize, limit: Number(bytes) })) }
      : {}),
    ...(unified.length > 0 ? { unified: limits.unified } : {}),
  };
}

const optional = (key: string, value: number | undefined): Record<string, number> => (value === undefined ? {} : { [key]: value });

const numberOf = (text: string): number | undefined => (text === '' || text === '0' ? undefined : Number(text));
