import type { ContainerConfig__Output } from '../../gen/cri/runtime/v1/ContainerConfig.ts';
import type { ImageConfig } from '../../image/image.ts';
import type { SelinuxLabels } from '../../os/selinux.ts';
import type { IdMapping } from '../../os/user-namespace.ts';
import type { CgroupLimits, CgroupMode } from '../../os/cgroup.ts';
import { containerCapabilities } from './capabilities.ts';
import type { CdiEdits } from './cdi-edits.ts';
import { withCdi } from './cdi-edits.ts';
import type { HostDevice } from './devices.ts';
import { boundDevices, devicesOf } from './devices.ts';
import type { MountsInput, ResolvedMount } from './mounts.ts';
import { idMappings, mountsOf, rootfsPropagation } from './mounts.ts';
import { maskedAndReadonly } from './paths.ts';
import { argsOf, cwdOf, envOf } from './process.ts';
import { resourcesOf } from './resources.ts';
import { seccompChoice, seccompOf } from './seccomp.ts';
import type { OciNamespace, OciProcess, OciSpec } from './spec-types.ts';

/** What this daemon may and can do; found once at the start. */
export interface DaemonFacts {
  readonly cgroupMode: CgroupMode;
  readonly cgroupLimits: CgroupLimits;
  /** The daemon's bounding set: nobody gets more. */
  readonly bounding: readonly string[];
  readonly oomScoreAdj: number;
  /** CAP_SYS_RESOURCE: may an oom_score_adj be lower than the daemon's own? */
  readonly mayLowerOomScore: boolean;
  readonly nofile: { readonly soft: number; readonly hard: number };
  /** Does the kernel have it, switched on? */
  readonly apparmor: boolean;
  readonly selinux: boolean;
  /** Of each CPU that has one: /sys/devices/system/cpu/cpuN/thermal_throttle. */
  readonly thermalThrottles: readonly string[];
}

/** `path`: join it; no path: a new one; 'host': none. */
export type NamespaceChoice = 'host' | { readonly path?: string };

export interface UserNamespace {
  readonly path: string;
  readonly uids: readonly IdMapping[];
  readonly gids: readonly IdMapping[];
}

export interface SpecInput {
  readonly id: string;
  readonly config: ContainerConfig__Output;
  readonly image: ImageConfig;
  readonly rootfsPath: string;
  readonly hostname: string;
  readonly namespaces: Readonly<Record<'network' | 'ipc' | 'uts' | 'pid', NamespaceChoice>>;
  /** The pod's; undefined: the host's. */
  readonly userNamespace: UserNamespace | undefined;
  readonly user: { readonly uid: number; readonly gid: number; readonly additionalGids: readonly number[] };
  readonly cgroupsPath: string;
  readonly mounts: readonly ResolvedMount[];
  readonly podFiles: MountsInput['podFiles'];
  readonly devices: readonly HostDevice[];
  /** What its CDI devices want changed, and their nodes with the host's facts. */
  readonly cdi: { readonly edits: CdiEdits; readonly devices: readonly HostDevice[] };
  /** Parsed Localhost seccomp profile, when one was asked for. */
  readonly localhostSeccomp: unknown;
  /** undefined: whatever the daemon itself is under. */
  readonly apparmorProfile: string | undefined;
  /** undefined: nothing is labelled on this machine. */
  readonly selinux: SelinuxLabels | undefined;
  readonly annotations: Readonly<Record<string, string>>;
  readonly daemon: DaemonFacts;
}

/** The oldest version that has every field in use: runtimes refuse versions newer than they know. */
export const OCI_VERSION = '1.0.2';
/** Mounts with mappings came with it; runtimes that idmap know it. */
const OCI_VERSION_IDMAP = '1.1.0';

/** What a user namespace changes of a spec. */
export function userNamespaceOf(user: UserNamespace | undefined): {
  ociVersion: string;
  namespace: OciNamespace[];
  mappings: Pick<OciSpec['linux'], 'uidMappings' | 'gidMappings'>;
} {
  if (user === undefined) return { ociVersion: OCI_VERSION, namespace: [], mappings: {} };
  const mappings = { uidMappings: idMappings(user.uids), gidMappings: idMappings(user.gids) };
  return { ociVersion: OCI_VERSION_IDMAP, namespace: [{ type: 'user', path: user.path }], mappings };
}

/** config.json of a container. Pure: everything from the host comes in with `input`. invalidArgument names the CRI field. */
export function buildSpec(input: SpecInput): OciSpec {
  const { config, daemon } = input;
  const context = config.linux?.securityContext ?? null;
  const privileged = context?.privileged ?? false;
  const { nodes, rules } = devicesOf(input.devices, privileged);
  const ociProcess = processOf(input);
  const seccomp = seccompOf(seccompChoice(context), input.localhostSeccomp, ociProcess.capabilities.bounding);
  const readonlyRootfs = context?.readonlyRootfs ?? false;
  const propagation = rootfsPropagation(input.mounts);
  const user = userNamespaceOf(input.userNamespace);
  const spec: OciSpec = {
    ociVersion: user.ociVersion,
    process: ociProcess,
    root: { path: input.rootfsPath, readonly: readonlyRootfs },
    // The namespace has it already; a runtime with a kernel of its own (runsc) knows only this.
    ...(input.namespaces.uts === 'host' || input.hostname === '' ? {} : { hostname: input.hostname }),
    mounts: mountsOf({
      mounts: input.mounts,
      podFiles: input.podFiles,
      privileged,
      readonlyRootfs,
      hostNetwork: input.namespaces.network === 'host',
      ownUsers: input.userNamespace !== undefined,
    }),
    annotations: input.annotations,
    linux: {
      namespaces: [...user.namespace, ...namespacesOf(input.namespaces, privileged ? 'v1' : daemon.cgroupMode)],
      ...user.mappings,
      cgroupsPath: input.cgroupsPath,
      resources: { ...resourcesOf(config.linux?.resources ?? null, daemon), devices: rules },
      devices: nodes,
      ...maskedAndReadonly(context, { ownUsers: input.userNamespace !== undefined, throttles: daemon.thermalThrottles }),
      ...(propagation === undefined ? {} : { rootfsPropagation: propagation }),
      ...(input.selinux === undefined ? {} : { mountLabel: input.selinux.mount }),
      ...(seccomp === undefined ? {} : { seccomp }),
    },
  };
  const whole = withCdi(spec, input.cdi.edits, input.cdi.devices);
  return input.userNamespace === undefined ? whole : boundDevices(whole, [...input.devices, ...input.cdi.devices]);
}

function processOf(input: SpecInput): OciProcess {
  const { config, image, daemon } = input;
  const context = config.linux?.securityContext ?? null;
  const privileged = context?.privileged ?? false;
  const { uid, gid, additionalGids } = input.user;
  return {
    terminal: config.tty,
    user: { uid, gid, additionalGids },
    args: argsOf(config, image),
    env: envOf(config, image, input.hostname),
    cwd: cwdOf(config, image),
    capabilities: forUser(containerCapabilities(context?.capabilities ?? null, { privileged, bounding: daemon.bounding }), uid),
    rlimits: [{ type: 'RLIMIT_NOFILE', ...daemon.nofile }],
    noNewPrivileges: context?.noNewPrivs ?? false,
    oomScoreAdj: clampedOomScore(Number(config.linux?.resources?.oomScoreAdj ?? 0), daemon),
    ...(input.apparmorProfile === undefined ? {} : { apparmorProfile: input.apparmorProfile }),
    ...(input.selinux === undefined ? {} : { selinuxLabel: input.selinux.process }),
  };
}

// execve drops effective and permitted of a process that is not root anyway, all but the ambient ones; saying so keeps the runtimes alike.
function forUser(capabilities: OciProcess['capabilities'], uid: number): OciProcess['capabilities'] {
  if (uid === 0) return capabilities;
  return { ...capabilities, effective: capabilities.ambient, permitted: capabilities.ambient };
}

/** Without CAP_SYS_RESOURCE nothing may go below the daemon's own score; the runtime would fail instead. */
export const clampedOomScore = (asked: number, daemon: DaemonFacts): number =>
  daemon.mayLowerOomScore ? asked : Math.max(asked, daemon.oomScoreAdj);

/** Mount is always new; cgroup where v2 makes it useful. */
export function namespacesOf(choices: SpecInput['namespaces'], cgroupMode: CgroupMode): OciNamespace[] {
  const chosen = (['pid', 'network', 'ipc', 'uts'] as const).flatMap((type): OciNamespace[] => {
    const choice = choices[type];
    return choice === 'host' ? [] : [{ type, ...(choice.path === undefined ? {} : { path: choice.path }) }];
  });
  return [...chosen, { type: 'mount' }, ...(cgroupMode === 'v2' ? [{ type: 'cgroup' as const }] : [])];
}

/** The process of an exec: the container's own with other arguments. */
export function buildExecProcess(input: { spec: OciSpec; command: readonly string[]; tty: boolean }): OciProcess {
  const { env } = input.spec.process;
  const needsTerm = input.tty && !env.some((entry) => entry.startsWith('TERM='));
  return { ...input.spec.process, args: input.command, terminal: input.tty, env: needsTerm ? [...env, 'TERM=xterm'] : env };
}
