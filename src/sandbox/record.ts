import { assert } from '../base/assert.ts';
import { expectShape } from '../base/shape.ts';
import type { LinuxContainerResources__Output } from '../gen/cri/runtime/v1/LinuxContainerResources.ts';
import type { PodSandboxConfig__Output } from '../gen/cri/runtime/v1/PodSandboxConfig.ts';
import type { Attachment, Begun, PodNetworkRequest } from '../network/attach.ts';
import type { SelinuxLabels } from '../os/selinux.ts';
import type { UserMappings } from '../os/user-namespace.ts';
import { sliceDir } from '../runtime/cgroup-path.ts';
import type { CreatedContainer } from '../runtime/runtime.ts';
import type { SandboxState } from './state.ts';
import { isSandboxState, mayMove } from './state.ts';

/** What is known of a pod sandbox, as it stands in its file. Replaced as a whole, never changed in place. */
export interface PodSandboxRecord {
  readonly version: 1;
  readonly id: string;
  readonly state: SandboxState;
  readonly config: PodSandboxConfig__Output;
  readonly runtimeHandler: string;
  readonly createdAtNs: string;
  /** Boot that its mounts, namespaces and processes belong to. */
  readonly bootId: string;
  readonly cgroupParent: string;
  /** The parent did not exist before: it goes with the sandbox. */
  readonly ownsCgroupParent: boolean;
  /** Since UpdatePodSandboxResources; before it the config's are in force. */
  readonly overhead?: LinuxContainerResources__Output;
  readonly resources?: LinuxContainerResources__Output;
  /** Where the machine has SELinux: the labels of its containers, with a level of its own. */
  readonly selinux?: SelinuxLabels;
  /** Set before the first plugin runs: from then on DEL is due, result or not (R3). */
  readonly networkBegun: boolean;
  /** What the plugins were first run by; from the result on it is the attachment's. */
  readonly conflist?: unknown;
  readonly attachment?: Attachment;
  /** Process that holds a pod-shared PID namespace, where the pod has one. */
  readonly pause?: CreatedContainer;
  /** Labels of teardown steps that failed last time, for people. */
  readonly failedSteps?: readonly string[];
}

/** Same pod, same attempt: what makes two RunPodSandbox calls one operation (R1). */
export function sandboxKey(config: PodSandboxConfig__Output): string {
  const { uid, namespace, name, attempt } = config.metadata ?? { uid: '', namespace: '', name: '', attempt: 0 };
  return [namespace, name, uid, attempt].join('/');
}

/**
 * The cgroup that is this pod's and nobody else's, as /proc/PID/cgroup spells it. undefined where there is none: a pod of the systemd driver
 * that named no parent shares its slice with others.
 */
export function podCgroupPath({ cgroupParent, config, ownsCgroupParent }: PodSandboxRecord): string | undefined {
  if (!ownsCgroupParent && (config.linux?.cgroupParent ?? '') === '') return undefined;
  return cgroupParent.startsWith('/') ? cgroupParent : sliceDir(cgroupParent);
}

export type NamespaceKind = 'network' | 'ipc' | 'pid';

export function namespaceMode(config: PodSandboxConfig__Output, kind: NamespaceKind): string {
  return config.linux?.securityContext?.namespaceOptions?.[kind] ?? 'POD';
}

export const usesHostNetwork = (config: PodSandboxConfig__Output): boolean => namespaceMode(config, 'network') === 'NODE';

/** Namespaces that are pinned for the pod. A pod on the host's network has the host's hostname too, as kubelet expects. */
export function pinnedNamespaces(config: PodSandboxConfig__Output): Array<'net' | 'ipc' | 'uts'> {
  const kinds: Array<'net' | 'ipc' | 'uts'> = usesHostNetwork(config) ? [] : ['net', 'uts'];
  if (namespaceMode(config, 'ipc') !== 'NODE') kinds.push('ipc');
  return kinds;
}

/** Of the pod's user namespace; undefined where it has none of its own. */
export function userMappings(config: PodSandboxConfig__Output): UserMappings | undefined {
  const options = config.linux?.securityContext?.namespaceOptions?.usernsOptions ?? null;
  return options?.mode === 'POD' ? { uids: options.uids, gids: options.gids } : undefined;
}

/** Only a PID namespace that containers share needs a process to hold it (DESIGN 3.5). */
export const needsPause = (config: PodSandboxConfig__Output): boolean => namespaceMode(config, 'pid') === 'POD';

export function moved(record: PodSandboxRecord, to: SandboxState): PodSandboxRecord {
  assert(mayMove(record.state, to), `sandbox ${record.id} moves from ${record.state} to ${to}`);
  return { ...record, state: to };
}

/** Throws on what isn't a record of this version. What every list and status shows is checked: one bad record must not spoil them (R6). */
export function parseSandboxRecord(value: unknown): PodSandboxRecord {
  expectShape(value, {
    version: 'number',
    id: 'string',
    state: 'string',
    runtimeHandler: 'string',
    createdAtNs: 'digits',
    cgroupParent: 'string',
    'config.metadata.name': 'string',
    'config.metadata.uid': 'string',
    'config.metadata.namespace': 'string',
    'config.labels': 'object',
    'config.annotations': 'object',
    'config.portMappings': 'array',
  });
  const record = value as PodSandboxRecord;
  if (record.version !== 1) throw new Error(`version ${String(record.version)} is not known`);
  if (!isSandboxState(record.state)) throw new Error(`state ${String(record.state)} is not known`);
  return record;
}

/** Of a sandbox without a pod that is known. */
export const blankConfig = (metadata: { name: string; uid: string; namespace: string }): PodSandboxConfig__Output => ({
  metadata: { ...metadata, attempt: 0 },
  hostname: '',
  logDirectory: '',
  dnsConfig: null,
  portMappings: [],
  labels: {},
  annotations: {},
  linux: null,
  windows: null,
});

const rate = (config: PodSandboxConfig__Output, direction: string): number => {
  const text = config.annotations[`kubernetes.io/${direction}-bandwidth`];
  return text === undefined ? 0 : parseQuantity(text);
};

const UNITS: Readonly<Record<string, number>> = {
  '': 1,
  k: 1e3,
  M: 1e6,
  G: 1e9,
  T: 1e12,
  Ki: 2 ** 10,
  Mi: 2 ** 20,
  Gi: 2 ** 30,
  Ti: 2 ** 40,
};

/** Kubernetes quantity (`10M`, `1Gi`) to a number; 0 when it isn't one. */
function parseQuantity(text: string): number {
  const match = /^(\d+(?:\.\d+)?)(k|M|G|T|Ki|Mi|Gi|Ti)?$/.exec(text);
  return match ? Number(match[1]) * (UNITS[match[2] ?? ''] ?? 0) : 0;
}

/** What its annotations ask for, bits per second; undefined when that is nothing. */
export function podBandwidth(config: PodSandboxConfig__Output): PodNetworkRequest['bandwidth'] {
  const bandwidth = { ingressRate: rate(config, 'ingress'), egressRate: rate(config, 'egress') };
  return bandwidth.ingressRate > 0 || bandwidth.egressRate > 0 ? bandwidth : undefined;
}

/** For DEL: the attachment, or what its ADD began with. */
export const networkOf = ({ attachment, conflist }: PodSandboxRecord): Begun | undefined =>
  attachment ?? (conflist === undefined ? undefined : { conflist });

export function networkRequest(record: PodSandboxRecord, netnsPath: string): PodNetworkRequest {
  const { config } = record;
  const { name = '', namespace = '', uid = '' } = config.metadata ?? {};
  const dns = config.dnsConfig;
  return {
    sandboxId: record.id,
    netnsPath,
    pod: { name, namespace, uid },
    portMappings: config.portMappings.map((mapping) => ({
      protocol: mapping.protocol === 'UDP' ? 'udp' : mapping.protocol === 'SCTP' ? 'sctp' : 'tcp',
      containerPort: mapping.containerPort,
      hostPort: mapping.hostPort,
      hostIP: mapping.hostIp,
    })),
    dns: { servers: dns?.servers ?? [], searches: dns?.searches ?? [], options: dns?.options ?? [] },
    cgroupPath: record.cgroupParent,
    bandwidth: podBandwidth(config),
  };
}
