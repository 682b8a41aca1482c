import { invalidArgument } from '../../base/errors.ts';
import type { PodSandboxConfig__Output } from '../../gen/cri/runtime/v1/PodSandboxConfig.ts';
import type { NamespaceOption__Output } from '../../gen/cri/runtime/v1/NamespaceOption.ts';
import type { PodSandboxStatusRequest__Output } from '../../gen/cri/runtime/v1/PodSandboxStatusRequest.ts';
import type { RunPodSandboxRequest__Output } from '../../gen/cri/runtime/v1/RunPodSandboxRequest.ts';
import type { UpdatePodSandboxResourcesRequest__Output } from '../../gen/cri/runtime/v1/UpdatePodSandboxResourcesRequest.ts';
import {
  absolutePath,
  cgroupParent,
  hostname,
  ipAddress,
  knownEnum,
  noNul,
  nonEmpty,
  port,
  required,
  selinuxOptions,
  stringMap,
  sysctl,
} from './fields.ts';
import { podResources } from './resources.ts';
import { usernsOptions } from './user-namespace.ts';

export function runPodSandbox(request: RunPodSandboxRequest__Output): { config: PodSandboxConfig__Output; runtimeHandler: string } {
  const config = required(request.config, 'config');
  const metadata = required(config.metadata, 'config.metadata');
  nonEmpty(metadata.name, 'config.metadata.name');
  nonEmpty(metadata.namespace, 'config.metadata.namespace');
  hostname(config.hostname, 'config.hostname');
  if (config.logDirectory !== '') absolutePath(config.logDirectory, 'config.log_directory');
  stringMap(config.labels, 'config.labels');
  stringMap(config.annotations, 'config.annotations');
  dns(config);
  ports(config);
  linux(config);
  noNul(request.runtimeHandler, 'runtime_handler');
  return { config, runtimeHandler: request.runtimeHandler };
}

// What goes into resolv.conf line by line must not bring lines of its own.
function dns({ dnsConfig }: PodSandboxConfig__Output): void {
  if (dnsConfig === null) return;
  for (const key of ['servers', 'searches', 'options'] as const) {
    dnsConfig[key].forEach((text, index) => {
      if (text === '' || /[\s\0]/.test(text))
        throw invalidArgument(`config.dns_config.${key}[${index}]`, `${JSON.stringify(text)} is empty or contains white space`);
    });
  }
}

function ports({ portMappings }: PodSandboxConfig__Output): void {
  portMappings.forEach((mapping, index) => {
    const field = `config.port_mappings[${index}]`;
    knownEnum(mapping.protocol, `${field}.protocol`);
    port(mapping.containerPort, `${field}.container_port`, mapping.hostPort > 0 ? 1 : 0);
    port(mapping.hostPort, `${field}.host_port`, 0);
    ipAddress(mapping.hostIp, `${field}.host_ip`);
  });
}

const IPC_SYSCTL = /^(kernel[./](shm|msg|sem)|fs[./]mqueue[./])/;

function linux({ linux: options }: PodSandboxConfig__Output): void {
  if (options === null) return;
  cgroupParent(options.cgroupParent, 'config.linux.cgroup_parent');
  podResources(options.overhead, 'config.linux.overhead');
  podResources(options.resources, 'config.linux.resources');
  const field = 'config.linux.security_context.namespace_options';
  const namespaces = options.securityContext?.namespaceOptions ?? null;
  namespaceOptions(namespaces, field);
  selinuxOptions(options.securityContext?.selinuxOptions ?? null, 'config.linux.security_context.selinux_options');
  for (const kind of ['network', 'ipc', 'pid'] as const) {
    if (namespaces?.[kind] === 'TARGET') throw invalidArgument(`${field}.${kind}`, 'TARGET is for containers');
  }
  for (const [key, value] of Object.entries(options.sysctls)) {
    sysctl(key, value, `config.linux.sysctls[${key}]`);
    const isNet = /^net[./]/.test(key);
    if (isNet && namespaces?.network === 'NODE') throw invalidArgument(`config.linux.sysctls[${key}]`, "would change the host's network");
    if (IPC_SYSCTL.test(key) && namespaces?.ipc === 'NODE')
      throw invalidArgument(`config.linux.sysctls[${key}]`, "would change the host's IPC namespace");
    if (!isNet && !IPC_SYSCTL.test(key)) throw invalidArgument(`config.linux.sysctls[${key}]`, 'does not belong to a namespace of the pod');
  }
}

export function updatePodSandboxResources(request: UpdatePodSandboxResourcesRequest__Output): UpdatePodSandboxResourcesRequest__Output {
  podResources(request.overhead, 'overhead');
  podResources(request.resources, 'resources');
  return podSandboxId(request);
}

/** Of sandboxes and of containers. */
export function namespaceOptions(options: NamespaceOption__Output | null, field: string): void {
  if (options === null) return;
  for (const kind of ['network', 'pid', 'ipc'] as const) knownEnum(options[kind], `${field}.${kind}`);
  if (options.network === 'CONTAINER') throw invalidArgument(`${field}.network`, 'CONTAINER is not a mode of the network namespace');
  if (options.ipc === 'CONTAINER') throw invalidArgument(`${field}.ipc`, 'CONTAINER is not a mode of the IPC namespace');
  usernsOptions(options, field);
}

export function podSandboxId<T extends { podSandboxId: string }>(request: T): T {
  nonEmpty(request.podSandboxId, 'pod_sandbox_id');
  return request;
}

export const podSandboxStatus = (request: PodSandboxStatusRequest__Output): PodSandboxStatusRequest__Output => podSandboxId(request);
