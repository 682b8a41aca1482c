import { posix } from 'node:path';

/** `foo-bar.slice` lives at `/foo.slice/foo-bar.slice` (systemd.slice(5)); `-.slice` is the root, "". */
export function sliceDir(slice: string): string {
  const name = slice.replace(/\.slice$/, '');
  if (name === '' || name === '-') return '';
  const parts = name.split('-');
  return parts.map((_, index) => `/${parts.slice(0, index + 1).join('-')}.slice`).join('');
}

/**
 * Where a container's cgroup will be, as /proc/PID/cgroup spells it, from `linux.cgroupsPath` of its config.json (OCI runtime-spec,
 * config-linux, "Control Groups"): an absolute path for cgroupfs, `slice:prefix:name` for systemd. undefined when the runtime decides.
 */
export function cgroupPathOf(config: unknown): string | undefined {
  const linux = (config as { linux?: { cgroupsPath?: unknown } | null } | null)?.linux;
  const asked = linux?.cgroupsPath;
  if (typeof asked !== 'string' || asked === '') return undefined;
  const parts = asked.split(':');
  if (parts.length === 3) {
    const [slice = '', prefix = '', name = ''] = parts;
    const unit = name.endsWith('.slice') ? name : `${prefix === '' ? '' : `${prefix}-`}${name}.scope`;
    return `${sliceDir(slice)}/${unit}`;
  }
  // never the root: what is named here gets killed and removed
  const path = posix.normalize(asked);
  return path.startsWith('/') && path !== '/' ? path.replace(/\/$/, '') : undefined;
}
