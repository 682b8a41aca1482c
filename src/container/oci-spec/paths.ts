import type { LinuxContainerSecurityContext__Output } from '../../gen/cri/runtime/v1/LinuxContainerSecurityContext.ts';

/** What nobody but the host has business with, and older kubelets' lists lack (S10): powercap tells secrets by their power (GHSA-7ww5-4wqc-m92c). */
const ALWAYS_MASKED: readonly string[] = ['/proc/interrupts', '/sys/devices/virtual/powercap'];

/** Files of the host that every container would see through /proc and /sys. */
const MASKED: readonly string[] = [
  '/proc/acpi',
  '/proc/asound',
  '/proc/kcore',
  '/proc/keys',
  '/proc/latency_stats',
  '/proc/sched_debug',
  '/proc/scsi',
  '/proc/timer_list',
  '/proc/timer_stats',
  '/sys/firmware',
];

const READONLY: readonly string[] = ['/proc/bus', '/proc/fs', '/proc/irq', '/proc/sys', '/proc/sysrq-trigger'];

/**
 * kubelet sends its own lists unless procMount is Unmasked, and then empty ones; a client that sends neither gets ours. Empty lists are taken at their word only
 * in a user namespace, where Kubernetes allows them (S15). `throttles` are the directories that tell how hot each CPU runs. Privileged: none.
 */
export function maskedAndReadonly(
  context: LinuxContainerSecurityContext__Output | null,
  host: { ownUsers: boolean; throttles: readonly string[] },
): {
  maskedPaths: readonly string[];
  readonlyPaths: readonly string[];
} {
  const masked = context?.maskedPaths ?? [];
  const readonly = context?.readonlyPaths ?? [];
  const isUnmasked = host.ownUsers && context !== null && masked.length === 0 && readonly.length === 0;
  if (context?.privileged === true || isUnmasked) return { maskedPaths: [], readonlyPaths: [] };
  return {
    maskedPaths: [...new Set([...(masked.length > 0 ? masked : MASKED), ...ALWAYS_MASKED, ...host.throttles])],
    readonlyPaths: readonly.length > 0 ? [...new Set(readonly)] : READONLY,
  };
}
