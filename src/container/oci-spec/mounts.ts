import type { IdMapping } from '../../os/user-namespace.ts';
import type { OciIdMapping, OciMount } from './spec-types.ts';

/** A CRI mount whose host path was looked up by the caller. */
export interface ResolvedMount {
  readonly containerPath: string;
  readonly source: string;
  readonly readOnly: boolean;
  readonly recursiveReadOnly: boolean;
  readonly propagation: 'private' | 'rslave' | 'rshared';
  /** More options of the mount: `nosuid`, `nodev`. */
  readonly flags?: readonly string[];
  /** Ids on disk to the host's, as a user namespace has them: the runtime idmaps the mount. */
  readonly uidMappings?: readonly IdMapping[];
  readonly gidMappings?: readonly IdMapping[];
}

export interface MountsInput {
  readonly mounts: readonly ResolvedMount[];
  /** Host paths of the pod's own files; undefined: the container has none or brings its own. */
  readonly podFiles: { readonly resolvConf?: string; readonly hostname?: string; readonly shm?: string };
  readonly privileged: boolean;
  readonly readonlyRootfs: boolean;
  readonly hostNetwork: boolean;
  /** The container is in a user namespace. */
  readonly ownUsers: boolean;
}

const defaults = ({ privileged, podFiles, readonlyRootfs, hostNetwork, ownUsers }: MountsInput): OciMount[] => {
  const access = privileged ? 'rw' : 'ro';
  const fileAccess = readonlyRootfs ? 'ro' : 'rw';
  const shm: OciMount =
    podFiles.shm === undefined
      ? { destination: '/dev/shm', type: 'tmpfs', source: 'shm', options: ['nosuid', 'noexec', 'nodev', 'mode=1777', 'size=65536k'] }
      : { destination: '/dev/shm', type: 'bind', source: podFiles.shm, options: ['rbind', 'rprivate', 'nosuid', 'noexec', 'nodev', 'rw'] };
  const cgroup: OciMount = {
    destination: '/sys/fs/cgroup',
    // With v2 as well: runc gives every type that it does not know, cgroup2 too, an SELinux label, which the kernel refuses of a hierarchy that is mounted.
    type: 'cgroup',
    source: 'cgroup',
    options: ['nosuid', 'noexec', 'nodev', 'relatime', access],
  };
  // The host's network namespace is not our user namespace's, and the kernel makes a sysfs only for one's own: the host's is shown.
  const sys: OciMount =
    hostNetwork && ownUsers
      ? { destination: '/sys', type: 'bind', source: '/sys', options: ['rbind', 'rprivate', 'nosuid', 'noexec', 'nodev', 'ro', 'rro'] }
      : { destination: '/sys', type: 'sysfs', source: 'sysfs', options: ['nosuid', 'noexec', 'nodev', access] };
  return [
    { destination: '/proc', type: 'proc', source: 'proc', options: ['nosuid', 'noexec', 'nodev'] },
    { destination: '/dev', type: 'tmpfs', source: 'tmpfs', options: ['nosuid', 'strictatime', 'mode=755', 'size=65536k'] },
    {
      destination: '/dev/pts',
      type: 'devpts',
      source: 'devpts',
      options: ['nosuid', 'noexec', 'newinstance', 'ptmxmode=0666', 'mode=0620', 'gid=5'],
    },
    { destination: '/dev/mqueue', type: 'mqueue', source: 'mqueue', options: ['nosuid', 'noexec', 'nodev'] },
    shm,
    sys,
    cgroup,
    ...fileMount('/etc/resolv.conf', podFiles.resolvConf, fileAccess),
    ...fileMount('/etc/hostname', podFiles.hostname, fileAccess),
  ];
};

const fileMount = (destination: string, source: string | undefined, access: string): OciMount[] =>
  source === undefined ? [] : [{ destination, type: 'bind', source, options: ['rbind', 'rprivate', access] }];

export const idMappings = (mappings: readonly IdMapping[]): OciIdMapping[] =>
  mappings.map(({ containerId, hostId, length }) => ({ containerID: containerId, hostID: hostId, size: length }));

export const trimmed = (path: string): string => path.replace(/\/+/g, '/').replace(/(.)\/$/, '$1');

/** Defaults, each replaced by a CRI mount at the same place; parents before what lies in them, otherwise in the order given. */
export function mountsOf(input: MountsInput): OciMount[] {
  const asked = input.mounts.map((mount): OciMount => ({
    destination: trimmed(mount.containerPath),
    type: 'bind',
    source: mount.source,
    ...(mount.uidMappings?.length || mount.gidMappings?.length
      ? { uidMappings: idMappings(mount.uidMappings ?? []), gidMappings: idMappings(mount.gidMappings ?? []) }
      : {}),
    options: [
      'rbind',
      mount.propagation === 'private' ? 'rprivate' : mount.propagation,
      mount.readOnly ? 'ro' : 'rw',
      ...(mount.recursiveReadOnly ? ['rro'] : []),
      ...(mount.flags ?? []),
    ],
  }));
  const taken = new Set(asked.map(({ destination }) => destination));
  // A CRI mount of /sys brings its own cgroup tree or none; ours must not be put over it.
  const own = defaults(input).filter(
    ({ destination }) => !taken.has(destination) && !(taken.has('/sys') && destination.startsWith('/sys/')),
  );
  return byDepth([...own, ...asked]);
}

/** Parents before what lies in them, otherwise in the order given. */
export function byDepth(mounts: readonly OciMount[]): OciMount[] {
  const depth = (path: string): number => (path === '/' ? 0 : path.split('/').length);
  return mounts.toSorted((a, b) => depth(a.destination) - depth(b.destination));
}

/** What the root mount must be for the strictest of these mounts to work (rslave sees the host's later mounts, rshared shows ours to it). */
export function rootfsPropagation(mounts: readonly ResolvedMount[]): string | undefined {
  if (mounts.some(({ propagation }) => propagation === 'rshared')) return 'rshared';
  return mounts.some(({ propagation }) => propagation === 'rslave') ? 'rslave' : undefined;
}
