import type { OciDevice, OciDeviceRule } from './spec-types.ts';

/** A device node of the host, as the caller found it. `permissions` of `rwm`, for the cgroup. */
export interface HostDevice extends OciDevice {
  readonly permissions: string;
}

/** What every container may use; the runtime makes the nodes (OCI runtime-spec, default devices). */
const DEFAULT_RULES: readonly OciDeviceRule[] = [
  [1, 3],
  [1, 5],
  [1, 7],
  [1, 8],
  [1, 9],
  [5, 0],
  [5, 2],
]
  .map(([major = 0, minor = 0]): OciDeviceRule => ({ allow: true, type: 'c', major, minor, access: 'rwm' }))
  .concat([{ allow: true, type: 'c', major: 136, access: 'rwm' }]);

/** Privileged containers get every device; others the default ones and those they were given. */
export function devicesOf(
  devices: readonly HostDevice[],
  privileged: boolean,
): { nodes: readonly OciDevice[]; rules: readonly OciDeviceRule[] } {
  const nodes = devices.map(({ permissions: _permissions, ...node }) => node);
  if (privileged) return { nodes, rules: [{ allow: true, access: 'rwm' }] };
  const given = devices.map(({ type, major, minor, permissions }): OciDeviceRule => ({
    allow: true,
    type,
    major,
    minor,
    access: permissions || 'rwm',
  }));
  return { nodes, rules: [{ allow: false, access: 'rwm' }, ...DEFAULT_RULES, ...given] };
}
