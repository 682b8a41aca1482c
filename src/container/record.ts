import { join } from 'node:path';
import { assert } from '../base/assert.ts';
import { expectShape } from '../base/shape.ts';
import type { Digest } from '../base/digest.ts';
import type { ContainerConfig__Output } from '../gen/cri/runtime/v1/ContainerConfig.ts';
import type { LinuxContainerResources__Output } from '../gen/cri/runtime/v1/LinuxContainerResources.ts';
import type { CreatedContainer } from '../runtime/runtime.ts';
import type { ContainerState } from './state.ts';
import { isContainerState, mayMove } from './state.ts';

/** How init ended, as ContainerStatus tells it. */
export interface ContainerExit {
  readonly exitCode: number;
  readonly finishedAtNs: string;
  /** `Completed`, `Error`, `OOMKilled` or what kept it from starting. */
  readonly reason: string;
  readonly message: string;
}

/** An image that a container mounts as a volume. */
export interface ImageVolume {
  /** Position in `config.mounts`. */
  readonly index: number;
  /** What the reference meant when the container was made. */
  readonly imageId: Digest;
}

/** What is known of a container, as it stands in its file. Replaced as a whole, never changed in place. */
export interface ContainerRecord {
  readonly version: 1;
  readonly id: string;
  readonly sandboxId: string;
  readonly state: ContainerState;
  readonly config: ContainerConfig__Output;
  readonly imageId: Digest;
  /** What ContainerStatus calls image_ref: a repo digest where the image has one. */
  readonly imageRef: string;
  /** Images that are mounted as volumes: each holds a view of the snapshotter. */
  readonly imageVolumes?: readonly ImageVolume[];
  readonly runtimeHandler: string;
  readonly bootId: string;
  /** As in /proc/PID/cgroup of init; "" until it exists. */
  readonly cgroupPath: string;
  readonly logPath: string;
  readonly stopSignal: number;
  readonly user: { readonly uid: number; readonly gid: number; readonly additionalGids: readonly number[] };
  /** Resources in force: those of create, changed by update. */
  readonly resources: LinuxContainerResources__Output | null;
  readonly createdAtNs: string;
  readonly startedAtNs: string;
  readonly process?: CreatedContainer;
  readonly exit?: ContainerExit;
  readonly failedSteps?: readonly string[];
}

/** Same container of the same pod, same attempt: what makes two CreateContainer calls one operation (R1). */
export const containerKey = (sandboxId: string, config: ContainerConfig__Output): string =>
  [sandboxId, config.metadata?.name ?? '', config.metadata?.attempt ?? 0].join('/');

export function moved(record: ContainerRecord, to: ContainerState): ContainerRecord {
  assert(mayMove(record.state, to), `container ${record.id} moves from ${record.state} to ${to}`);
  return { ...record, state: to };
}

/** Throws on what isn't a record of this version. What every list and status shows is checked: one bad record must not spoil them (R6). */
export function parseContainerRecord(value: unknown): ContainerRecord {
  expectShape(value, {
    version: 'number',
    id: 'string',
    sandboxId: 'string',
    state: 'string',
    imageId: 'string',
    imageRef: 'string',
    runtimeHandler: 'string',
    cgroupPath: 'string',
    logPath: 'string',
    createdAtNs: 'digits',
    startedAtNs: 'digits',
    'config.metadata.name': 'string',
    'config.labels': 'object',
    'config.annotations': 'object',
    'config.mounts': 'array',
    'user.additionalGids': 'array',
  });
  const record = value as ContainerRecord;
  if (record.version !== 1) throw new Error(`version ${String(record.version)} is not known`);
  if (!isContainerState(record.state)) throw new Error(`state ${String(record.state)} is not known`);
  return record;
}

export interface ContainerPaths {
  /** The OCI bundle; gone after a reboot. */
  readonly bundle: string;
  readonly rootfs: string;
  /** Where the image's layers are mounted for a moment while an idmapped rootfs is made of them. */
  readonly layers: string;
  /** Below it the views of images that are mounted as volumes, by position in `config.mounts`. */
  readonly imageVolumes: string;
}

export function containerPaths(stateDir: string, id: string): ContainerPaths {
  const bundle = join(stateDir, 'containers', id);
  return { bundle, rootfs: join(bundle, 'rootfs'), layers: join(bundle, 'layers'), imageVolumes: join(bundle, 'image-volumes') };
}
