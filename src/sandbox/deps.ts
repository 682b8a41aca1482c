import type { KeyedLock } from '../base/keyed-lock.ts';
import type { LastingWork } from '../base/lasting-work.ts';
import type { Logger } from '../base/log.ts';
import type { Operations } from '../base/operations.ts';
import type { TaskSet } from '../base/task-set.ts';
import type { PodSandboxConfig__Output } from '../gen/cri/runtime/v1/PodSandboxConfig.ts';
import type { Attachment, Network, PodNetworkRequest } from '../network/attach.ts';
import type { CgroupMode } from '../os/cgroup.ts';
import type { SelinuxLabels } from '../os/selinux.ts';
import type { RecordStore } from '../os/record-store.ts';
import type { Op } from '../base/op.ts';
import type { Runtime } from '../runtime/runtime.ts';
import type { PauseProcess } from './pause.ts';
import type { PodSandboxRecord } from './record.ts';

/** What a sandbox has to ask of the container room; `daemon.ts` wires it, since containers know sandboxes and not the reverse. */
export interface PodContainers {
  /** Ends every container of the pod, without a grace period. Idempotent. */
  stopAll(op: Op, sandboxId: string): Promise<void>;
  /** Removes every container of the pod. Idempotent. */
  removeAll(op: Op, sandboxId: string): Promise<void>;
}

/** Sandboxes that are made before their pods; `pool.ts` keeps them. */
export interface WarmSandboxes {
  /**
   * What `use` makes of a sandbox that serves a pod of this configuration, or undefined: then the pod takes the plain path. The caller puts it under the sandbox's
   * id before it waits for anything else.
   */
  take(config: PodSandboxConfig__Output, use: (warm: PodSandboxRecord) => PodSandboxRecord): Promise<PodSandboxRecord | undefined>;
  /** `Network.attach` of a pod without one; when no address is left, it gets one of theirs. */
  attach(op: Op, request: PodNetworkRequest, conflist: unknown): Promise<Attachment>;
}

export type SandboxEventType = 'created' | 'started' | 'stopped' | 'deleted';

/** Everything the use cases of this room work with. */
export interface SandboxDeps {
  readonly stateDir: string;
  readonly bootId: string;
  readonly cgroupMode: CgroupMode;
  readonly systemdCgroup: boolean;
  readonly log: Logger;
  readonly store: RecordStore<PodSandboxRecord>;
  readonly operations: Operations<PodSandboxRecord>;
  /** Stops and removals under way. */
  readonly endings: LastingWork;
  readonly locks: KeyedLock;
  readonly tasks: TaskSet;
  readonly network: Network;
  readonly warm: WarmSandboxes;
  /** The policy's labels for containers; undefined: nothing is labelled. */
  readonly selinux: SelinuxLabels | undefined;
  readonly containers: PodContainers;
  readonly pause: PauseProcess;
  /** invalidArgument for a handler that is not configured; "" is the default one. */
  handler(name: string): Runtime;
  emit(type: SandboxEventType, record: PodSandboxRecord): void;
}
