import { invalidArgument } from '../../base/errors.ts';
import { MAX_TIMER_MS } from '../../base/op.ts';
import type { ContainerConfig__Output } from '../../gen/cri/runtime/v1/ContainerConfig.ts';
import type { CreateContainerRequest__Output } from '../../gen/cri/runtime/v1/CreateContainerRequest.ts';
import type { ExecSyncRequest__Output } from '../../gen/cri/runtime/v1/ExecSyncRequest.ts';
import type { LinuxContainerResources__Output } from '../../gen/cri/runtime/v1/LinuxContainerResources.ts';
import type { Mount__Output } from '../../gen/cri/runtime/v1/Mount.ts';
import type { StopContainerRequest__Output } from '../../gen/cri/runtime/v1/StopContainerRequest.ts';
import type { UpdateContainerResourcesRequest__Output } from '../../gen/cri/runtime/v1/UpdateContainerResourcesRequest.ts';
import { absolutePath, knownEnum, noNul, nonEmpty, notNegative, relativePath, required, selinuxOptions, stringMap } from './fields.ts';
import { resources } from './resources.ts';
import { namespaceOptions } from './sandbox.ts';
import { command } from './streaming.ts';
import { mountMappings } from './user-namespace.ts';

export function createContainer(request: CreateContainerRequest__Output): { podSandboxId: string; config: ContainerConfig__Output } {
  nonEmpty(request.podSandboxId, 'pod_sandbox_id');
  const config = required(request.config, 'config');
  nonEmpty(required(config.metadata, 'config.metadata').name, 'config.metadata.name');
  nonEmpty(required(config.image, 'config.image').image, 'config.image.image');
  if (config.workingDir !== '') absolutePath(config.workingDir, 'config.working_dir');
  relativePath(config.logPath, 'config.log_path');
  knownEnum(config.stopSignal, 'config.stop_signal');
  stringMap(config.labels, 'config.labels');
  stringMap(config.annotations, 'config.annotations');
  for (const [key, list] of Object.entries({ command: config.command, args: config.args }))
    list.forEach((text, i) => noNul(text, `config.${key}[${i}]`));
  config.envs.forEach(({ key, value }, index) => {
    nonEmpty(key, `config.envs[${index}].key`);
    if (key.includes('=')) throw invalidArgument(`config.envs[${index}].key`, `${JSON.stringify(key)} contains "="`);
    noNul(value, `config.envs[${index}].value`);
  });
  mounts(config);
  config.devices.forEach((device, index) => {
    absolutePath(device.hostPath, `config.devices[${index}].host_path`);
    absolutePath(device.containerPath, `config.devices[${index}].container_path`);
    if (!/^[rwm]{0,3}$/.test(device.permissions))
      throw invalidArgument(`config.devices[${index}].permissions`, `${JSON.stringify(device.permissions)} is not of r, w and m`);
  });
  config.CDIDevices.forEach(({ name }, index) => nonEmpty(name, `config.CDI_devices[${index}].name`));
  security(config);
  resources(config.linux?.resources ?? null, 'config.linux.resources');
  return { podSandboxId: request.podSandboxId, config };
}

function mounts(config: ContainerConfig__Output): void {
  config.mounts.forEach((mount, index) => {
    const field = `config.mounts[${index}]`;
    absolutePath(mount.containerPath, `${field}.container_path`);
    knownEnum(mount.propagation, `${field}.propagation`);
    const isImage = mount.image !== null && mount.image.image !== '';
    if (isImage === (mount.hostPath !== ''))
      throw invalidArgument(`${field}.host_path`, isImage ? 'an image volume has none' : 'must not be empty');
    if (mount.hostPath !== '') absolutePath(mount.hostPath, `${field}.host_path`);
    mountMappings(mount.uidMappings, mount.gidMappings, field);
    if (isImage) imageVolume(mount, field);
    else if (mount.imageSubPath !== '') throw invalidArgument(`${field}.image_sub_path`, 'needs image');
    if (!mount.recursiveReadOnly) return;
    if (!mount.readonly) throw invalidArgument(`${field}.recursive_read_only`, 'needs readonly');
    if (mount.propagation !== 'PROPAGATION_PRIVATE') throw invalidArgument(`${field}.recursive_read_only`, 'needs private propagation');
  });
}

function imageVolume(mount: Mount__Output, field: string): void {
  if (!mount.readonly) throw invalidArgument(`${field}.readonly`, 'must be true: an image volume is read-only');
  if (mount.propagation === 'PROPAGATION_BIDIRECTIONAL')
    throw invalidArgument(`${field}.propagation`, 'an image volume has none to the host');
  noNul(mount.imageSubPath, `${field}.image_sub_path`);
  if (mount.imageSubPath.startsWith('/') || mount.imageSubPath.split('/').includes('..'))
    throw invalidArgument(`${field}.image_sub_path`, `${JSON.stringify(mount.imageSubPath)} leaves the image`);
}

function security({ linux }: ContainerConfig__Output): void {
  const context = linux?.securityContext ?? null;
  if (context === null) return;
  const field = 'config.linux.security_context';
  namespaceOptions(context.namespaceOptions, `${field}.namespace_options`);
  if (context.namespaceOptions?.pid === 'TARGET') nonEmpty(context.namespaceOptions.targetId, `${field}.namespace_options.target_id`);
  selinuxOptions(context.selinuxOptions, `${field}.selinux_options`);
  knownEnum(context.supplementalGroupsPolicy, `${field}.supplemental_groups_policy`);
  if (context.runAsGroup !== null && context.runAsUser === null && context.runAsUsername === '') {
    throw invalidArgument(`${field}.run_as_group`, 'needs run_as_user or run_as_username');
  }
  if (context.runAsUser !== null) id(context.runAsUser.value, `${field}.run_as_user`);
  if (context.runAsGroup !== null) id(context.runAsGroup.value, `${field}.run_as_group`);
  context.supplementalGroups.forEach((gid, index) => id(gid, `${field}.supplemental_groups[${index}]`));
  for (const kind of ['seccomp', 'apparmor'] as const) {
    const profile = context[kind];
    if (profile === null) continue;
    knownEnum(profile.profileType, `${field}.${kind}.profile_type`);
    if (profile.profileType === 'Localhost') nonEmpty(profile.localhostRef, `${field}.${kind}.localhost_ref`);
  }
  context.maskedPaths.forEach((path, index) => absolutePath(path, `${field}.masked_paths[${index}]`));
  context.readonlyPaths.forEach((path, index) => absolutePath(path, `${field}.readonly_paths[${index}]`));
}

/** uid or gid: 32 bits, and the highest means "none" to the kernel (S4). */
function id(value: string, field: string): void {
  const number = BigInt(value);
  if (number < 0n || number >= 0xffff_ffffn) throw invalidArgument(field, `${value} is not a user or group id`);
}

export function updateContainerResources(request: UpdateContainerResourcesRequest__Output): {
  containerId: string;
  linux: LinuxContainerResources__Output;
} {
  nonEmpty(request.containerId, 'container_id');
  const linux = required(request.linux, 'linux');
  resources(linux, 'linux');
  return { containerId: request.containerId, linux };
}

export function containerId<T extends { containerId: string }>(request: T): T {
  nonEmpty(request.containerId, 'container_id');
  return request;
}

/** Seconds of the wire to milliseconds, at most what a timer can wait. A kubelet whose pod has a longer grace period asks again when its call is over. */
function milliseconds(seconds: string): number {
  notNegative(seconds, 'timeout');
  return Math.min(Number(seconds) * 1000, MAX_TIMER_MS);
}

export const stopContainer = (request: StopContainerRequest__Output): { containerId: string; timeoutMs: number } => ({
  containerId: nonEmpty(request.containerId, 'container_id'),
  timeoutMs: milliseconds(request.timeout),
});

/** A timeout of 0 is none (CRI, ExecSyncRequest). */
export function execSync(request: ExecSyncRequest__Output): { containerId: string; cmd: string[]; timeoutMs: number | undefined } {
  nonEmpty(request.containerId, 'container_id');
  command(request.cmd);
  return { containerId: request.containerId, cmd: request.cmd, timeoutMs: milliseconds(request.timeout) || undefined };
}
