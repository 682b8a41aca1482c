import { readFile } from 'node:fs/promises';
import { hostname as hostHostname } from 'node:os';
import { ClassifiedError, errnoOf, invalidArgument, messageOf } from '../base/errors.ts';
import type { Image } from '../image/image.ts';
import type { PodSandboxRecord } from '../sandbox/record.ts';
import { namespaceMode, userMappings, usesHostNetwork } from '../sandbox/record.ts';
import { podPaths } from '../sandbox/paths.ts';
import type { Op } from '../base/op.ts';
import type { ContainerDeps } from './deps.ts';
import { allHostDevices, askedDevices } from './host-devices.ts';
import { appArmorChoice } from './oci-spec/apparmor.ts';
import { lostAnnotations } from './lost-record.ts';
import type { ResolvedMount } from './oci-spec/mounts.ts';
import { seccompChoice } from './oci-spec/seccomp.ts';
import type { NamespaceChoice, SpecInput } from './oci-spec/spec.ts';
import type { ContainerRecord } from './record.ts';
import { containerPaths } from './record.ts';

/** Everything of the host that a container's spec depends on, gathered so that the spec itself is pure. */
export async function specInput(
  deps: ContainerDeps,
  op: Op,
  from: {
    record: ContainerRecord;
    sandbox: PodSandboxRecord;
    image: Image;
    mounts: readonly ResolvedMount[];
    cdi: SpecInput['cdi'];
    selinux: SpecInput['selinux'];
  },
): Promise<SpecInput> {
  const { record, sandbox, image, mounts, cdi, selinux } = from;
  const { config } = record;
  const context = config.linux?.securityContext ?? null;
  const paths = podPaths(deps.stateDir, sandbox.id);
  const hostIpc = namespaceMode(sandbox.config, 'ipc') === 'NODE';
  const seccomp = seccompChoice(context);
  const { seccomp: canFilter } = await deps.handler(sandbox.runtimeHandler).features();
  if (seccomp.kind !== 'unconfined' && !canFilter) {
    throw new ClassifiedError('failedPrecondition', 'config.linux.security_context.seccomp: the runtime of this handler has no seccomp');
  }
  return {
    id: record.id,
    config,
    image: image.config,
    rootfsPath: containerPaths(deps.stateDir, record.id).rootfs,
    hostname: usesHostNetwork(sandbox.config) ? hostHostname() : sandbox.config.hostname,
    namespaces: { ...podNamespaces(deps, sandbox), pid: pidNamespace(deps, record, sandbox) },
    userNamespace: podUserNamespace(deps, sandbox),
    user: record.user,
    cgroupsPath: cgroupsPathOf(deps, sandbox, record.id),
    mounts,
    podFiles: { resolvConf: paths.resolvConf, hostname: paths.hostname, shm: hostIpc ? '/dev/shm' : paths.shm },
    devices: context?.privileged === true ? await allHostDevices() : await askedDevices(config.devices),
    cdi,
    selinux,
    localhostSeccomp: seccomp.kind === 'localhost' ? await readProfile(seccomp.path) : undefined,
    apparmorProfile: await deps.apparmor.profileFor(op, appArmorChoice(context)),
    annotations: lostAnnotations({ sandboxId: sandbox.id, runtimeHandler: sandbox.runtimeHandler }),
    daemon: deps.facts,
  };
}

/** As every container of the pod has them, its own PID namespace aside. */
export function podNamespaces(deps: Pick<ContainerDeps, 'stateDir'>, sandbox: PodSandboxRecord): SpecInput['namespaces'] {
  const { namespaces } = podPaths(deps.stateDir, sandbox.id);
  const onHost = usesHostNetwork(sandbox.config);
  return {
    network: onHost ? 'host' : { path: `${namespaces}/net` },
    uts: onHost ? 'host' : { path: `${namespaces}/uts` },
    ipc: namespaceMode(sandbox.config, 'ipc') === 'NODE' ? 'host' : { path: `${namespaces}/ipc` },
    pid: {},
  };
}

export function podUserNamespace(deps: Pick<ContainerDeps, 'stateDir'>, sandbox: PodSandboxRecord): SpecInput['userNamespace'] {
  const mappings = userMappings(sandbox.config);
  return mappings && { path: podPaths(deps.stateDir, sandbox.id).user, ...mappings };
}

function pidNamespace(deps: ContainerDeps, record: ContainerRecord, sandbox: PodSandboxRecord): NamespaceChoice {
  const options = record.config.linux?.securityContext?.namespaceOptions ?? null;
  // A container that says nothing is as its pod is.
  const mode = options?.pid ?? namespaceMode(sandbox.config, 'pid');
  if (mode === 'NODE') return 'host';
  if (mode === 'CONTAINER') return {};
  if (mode === 'POD') {
    if (sandbox.pause === undefined)
      throw invalidArgument('config.linux.security_context.namespace_options.pid', 'the pod sandbox has no shared PID namespace');
    return { path: `/proc/${sandbox.pause.init.pid}/ns/pid` };
  }
  const targetId = options?.targetId ?? '';
  const target = deps.store.get(targetId);
  const field = 'config.linux.security_context.namespace_options.target_id';
  if (target === undefined || target.sandboxId !== sandbox.id)
    throw invalidArgument(field, `no container ${JSON.stringify(targetId)} in this pod`);
  if (target.state !== 'running' || target.process === undefined)
    throw new ClassifiedError('failedPrecondition', `${field}: container ${targetId} does not run`);
  return { path: `/proc/${target.process.init.pid}/ns/pid` };
}

/** `linux.cgroupsPath`: a path for cgroupfs, `slice:prefix:name` for systemd. */
export function cgroupsPathOf(deps: Pick<ContainerDeps, 'systemdCgroup'>, sandbox: PodSandboxRecord, id: string): string {
  if (!deps.systemdCgroup) return `${sandbox.cgroupParent.replace(/\/$/, '')}/${id}`;
  const slice = sandbox.cgroupParent.split('/').at(-1) ?? '';
  return `${slice === '' ? 'system.slice' : slice}:gantry:${id}`;
}

async function readProfile(path: string): Promise<unknown> {
  const field = 'config.linux.security_context.seccomp.localhost_ref';
  try {
    return JSON.parse(await readFile(path, 'utf8')) as unknown;
  } catch (error) {
    throw invalidArgument(field, errnoOf(error) === 'ENOENT' ? `no file ${path}` : `${path}: ${messageOf(error)}`);
  }
}
