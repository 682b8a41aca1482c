import type { LinuxContainerSecurityContext__Output } from '../../gen/cri/runtime/v1/LinuxContainerSecurityContext.ts';

/** Files of the host that every container would see through /proc and /sys (S10). */
const MASKED: readonly string[] = [
  '/proc/acpi',
  '/proc/asound',
  '/proc/interrupts',
  '/proc/kcore',
  '/proc/keys',
  '/proc/latency_stats',
  '/proc/sched_debug',
  '/proc/scsi',
  '/proc/timer_list',
  '/proc/timer_stats',
  '/sys/devices/virtual/powercap',
  '/sys/firmware',
];

const READONLY: readonly string[] = ['/proc/bus', '/proc/fs', '/proc/irq', '/proc/sys', '/proc/sysrq-trigger'];

/**
 * kubelet sends its own lists unless procMount is Unmasked, and then empty ones: that is for pods with users of their own (S15). Elsewhere a client that sends
 * neither gets ours. Privileged: none.
 */
export function maskedAndReadonly(
  context: LinuxContainerSecurityContext__Output | null,
  ownUsers: boolean,
): {
  maskedPaths: readonly string[];
  readonlyPaths: readonly string[];
} {
  if (context?.privileged === true) return { maskedPaths: [], readonlyPaths: [] };
  if (ownUsers && context?.maskedPaths.length === 0 && context.readonlyPaths.length === 0) return { maskedPaths: [], readonlyPaths: [] };
  const masked = context?.maskedPaths ?? [];
  const readonly = context?.readonlyPaths ?? [];
  return {
    maskedPaths: masked.length > 0 ? [...new Set(masked)] : MASKED,
    readonlyPaths: readonly.length > 0 ? [...new Set(readonly)] : READONLY,
  };
}
