import { invalidArgument } from '../../base/errors.ts';
import type { LinuxContainerResources__Output } from '../../gen/cri/runtime/v1/LinuxContainerResources.ts';
import { notNegative } from './fields.ts';

/** 0 is "not set"; -1 stands for "no limit" where the kernel has that. */
export function resources(limits: LinuxContainerResources__Output | null, field: string): void {
  if (limits === null) return;
  for (const [key, value] of [
    ['cpu_period', limits.cpuPeriod],
    ['cpu_shares', limits.cpuShares],
  ] as const) {
    notNegative(value, `${field}.${key}`);
  }
  for (const [key, value] of [
    ['cpu_quota', limits.cpuQuota],
    ['memory_limit_in_bytes', limits.memoryLimitInBytes],
    ['memory_swap_limit_in_bytes', limits.memorySwapLimitInBytes],
  ] as const) {
    if (BigInt(value || '0') < -1n) throw invalidArgument(`${field}.${key}`, `${value} is negative`);
  }
  const score = Number(limits.oomScoreAdj);
  if (score < -1000 || score > 1000) throw invalidArgument(`${field}.oom_score_adj`, `${score} is not between -1000 and 1000`);
  for (const [key, text] of [
    ['cpuset_cpus', limits.cpusetCpus],
    ['cpuset_mems', limits.cpusetMems],
  ] as const) {
    if (!/^[0-9,-]*$/.test(text)) throw invalidArgument(`${field}.${key}`, `${JSON.stringify(text)} is not a list of numbers and ranges`);
  }
  for (const key of Object.keys(limits.unified)) {
    if (!/^[a-z0-9_]+(\.[A-Za-z0-9_]+)+$/.test(key))
      throw invalidArgument(`${field}.unified`, `${JSON.stringify(key)} is not a cgroup file`);
  }
}

/** Of a pod as a whole: sums, so never negative; -1 as a quota is how clients say that there is none. */
export function podResources(limits: LinuxContainerResources__Output | null, field: string): void {
  if (limits === null) return;
  resources(limits, field);
  notNegative(limits.memoryLimitInBytes, `${field}.memory_limit_in_bytes`);
  notNegative(limits.memorySwapLimitInBytes, `${field}.memory_swap_limit_in_bytes`);
}
