import { NO_CAPABILITIES } from './capabilities.ts';
import { maskedAndReadonly } from './paths.ts';
import { defaultSeccomp } from './seccomp-default.ts';
import type { DaemonFacts, SpecInput } from './spec.ts';
import { clampedOomScore, namespacesOf, userNamespaceOf } from './spec.ts';
import type { OciSpec } from './spec-types.ts';
import type { IdMapping } from '../../os/user-namespace.ts';

/** kubelet's own score for it: the last to be killed of a pod. */
const PAUSE_OOM_SCORE = -998;
const NOBODY = 65534;

/** nobody, or the last id that a small user namespace has. */
const highest = (mappings: readonly IdMapping[] = []): number =>
  Math.min(NOBODY, ...mappings.map(({ containerId, length }) => containerId + length - 1));

/** config.json of the process that holds a pod's PID namespace: no capabilities, no writable root, nothing mounted that it does not need. */
export function pauseSpec(input: {
  id: string;
  args: readonly string[];
  rootfsPath: string;
  namespaces: SpecInput['namespaces'];
  userNamespace: SpecInput['userNamespace'];
  cgroupsPath: string;
  annotations: Readonly<Record<string, string>>;
  /** The runtime has it; all the pause process does is wait, so that it goes without where there is none. */
  seccomp: boolean;
  selinux?: SpecInput['selinux'];
  daemon: DaemonFacts;
}): OciSpec {
  const user = userNamespaceOf(input.userNamespace);
  return {
    ociVersion: user.ociVersion,
    process: {
      terminal: false,
      user: { uid: highest(input.userNamespace?.uids), gid: highest(input.userNamespace?.gids) },
      args: input.args,
      env: ['PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin'],
      cwd: '/',
      capabilities: NO_CAPABILITIES,
      rlimits: [{ type: 'RLIMIT_NOFILE', ...input.daemon.nofile }],
      noNewPrivileges: true,
      oomScoreAdj: clampedOomScore(PAUSE_OOM_SCORE, input.daemon),
      ...(input.selinux === undefined ? {} : { selinuxLabel: input.selinux.process }),
    },
    root: { path: input.rootfsPath, readonly: true },
    mounts: [
      { destination: '/proc', type: 'proc', source: 'proc', options: ['nosuid', 'noexec', 'nodev'] },
      { destination: '/dev', type: 'tmpfs', source: 'tmpfs', options: ['nosuid', 'strictatime', 'mode=755', 'size=65536k'] },
    ],
    annotations: input.annotations,
    linux: {
      namespaces: [...user.namespace, ...namespacesOf(input.namespaces, input.daemon.cgroupMode)],
      ...user.mappings,
      cgroupsPath: input.cgroupsPath,
      resources: { devices: [{ allow: false, access: 'rwm' }], cpu: { shares: 2 } },
      devices: [],
      ...maskedAndReadonly(null, { ownUsers: false, throttles: input.daemon.thermalThrottles }),
      ...(input.selinux === undefined ? {} : { mountLabel: input.selinux.mount }),
      ...(input.seccomp ? { seccomp: defaultSeccomp([]) } : {}),
    },
  };
}
