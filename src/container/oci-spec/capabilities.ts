import { invalidArgument } from '../../base/errors.ts';
import type { Capability__Output } from '../../gen/cri/runtime/v1/Capability.ts';
import type { OciCapabilities } from './spec-types.ts';

/** By number, capabilities(7). */
export const CAPABILITIES: readonly string[] = (
  'CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE NET_BIND_SERVICE NET_BROADCAST NET_ADMIN NET_RAW ' +
  'IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD ' +
  'LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE'
)
  .split(' ')
  .map((name) => `CAP_${name}`);

/** What a container has that asks for nothing: the set that Kubernetes documents for its baseline. */
const DEFAULT: readonly string[] =
  'CHOWN DAC_OVERRIDE FSETID FOWNER MKNOD NET_RAW SETGID SETUID SETFCAP SETPCAP NET_BIND_SERVICE SYS_CHROOT KILL AUDIT_WRITE'
    .split(' ')
    .map((name) => `CAP_${name}`);

/** Names of a bit mask as in /proc/PID/status (CapBnd). */
export const capabilitiesOf = (mask: bigint): string[] => CAPABILITIES.filter((_, bit) => (mask >> BigInt(bit)) & 1n);

/**
 * The five sets of a container. Everything is cut to the daemon's own bounding set: "ALL" is what we could give, and asking the runtime for more fails the start.
 * Inheritable stays empty (S10) but for what ambient needs. invalidArgument: a name that Linux doesn't know.
 */
export function containerCapabilities(
  asked: Capability__Output | null,
  options: { privileged: boolean; bounding: readonly string[] },
): OciCapabilities {
  const field = 'config.linux.security_context.capabilities';
  const all = options.bounding;
  if (options.privileged) return sets(all, []);
  const ambient = named(asked?.addAmbientCapabilities ?? [], `${field}.add_ambient_capabilities`, all);
  const add = [...named(asked?.addCapabilities ?? [], `${field}.add_capabilities`, all), ...ambient];
  const drop = new Set(named(asked?.dropCapabilities ?? [], `${field}.drop_capabilities`, CAPABILITIES));
  const dropsAll = (asked?.dropCapabilities ?? []).some((name) => normalised(name) === 'CAP_ALL');
  const base = dropsAll ? [] : DEFAULT.filter((name) => !drop.has(name));
  const addsAll = (asked?.addCapabilities ?? []).some((name) => normalised(name) === 'CAP_ALL');
  // With "add ALL, drop X" X stays dropped; with "drop ALL, add X" X is added.
  const wanted = new Set([...base, ...(addsAll && !dropsAll ? add.filter((name) => !drop.has(name)) : add)]);
  return sets(
    CAPABILITIES.filter((name) => wanted.has(name) && all.includes(name)),
    ambient.filter((name) => all.includes(name)),
  );
}

export const NO_CAPABILITIES: OciCapabilities = sets([], []);

function sets(granted: readonly string[], ambient: readonly string[]): OciCapabilities {
  return { bounding: granted, effective: granted, permitted: granted, inheritable: ambient, ambient };
}

const normalised = (name: string): string => {
  const upper = name.toUpperCase();
  return upper.startsWith('CAP_') ? upper : `CAP_${upper}`;
};

function named(names: readonly string[], field: string, all: readonly string[]): string[] {
  return names.flatMap((name, index) => {
    const full = normalised(name);
    if (full === 'CAP_ALL') return all;
    if (!CAPABILITIES.includes(full)) throw invalidArgument(`${field}[${index}]`, `${JSON.stringify(name)} is not a capability`);
    return full;
  });
}
