import type { OciDevice, OciDeviceRule, OciMount, OciSpec } from './spec-types.ts';

/** A device node of the host, as the caller found it. `permissions` of `rwm`, for the cgroup. */
export interface HostDevice extends OciDevice {
  readonly permissions: string;
  /** The host's path of it, where that is not `path`. */
  readonly source?: string;
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
  const nodes = devices.map(({ permissions: _permissions, source: _source, ...node }) => node);
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

/**
 * In a user namespace nobody makes device nodes: the runtime binds the host's node of the same path, and those of another path are for us to bind.
 * Of the spec's devices and mounts.
 */
export function boundDevices(spec: OciSpec, devices: readonly HostDevice[]): OciSpec {
  const moved = devices.filter(({ path, source }) => source !== undefined && source !== path);
  if (moved.length === 0) return spec;
  const binds = moved.map(({ path, source = path }): OciMount => ({
    destination: path,
    type: 'bind',
    source,
    options: ['bind', 'rprivate', 'nosuid', 'noexec', 'rw'],
  }));
  const { linux, mounts } = spec;
  const nodes = linux.devices.filter(({ path }) => !moved.some((each) => each.path === path));
  return { ...spec, mounts: [...mounts, ...binds], linux: { ...linux, devices: nodes } };
}
