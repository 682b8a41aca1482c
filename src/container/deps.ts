import type { KeyedLock } from '../base/keyed-lock.ts';
import type { LastingWork } from '../base/lasting-work.ts';
import type { Logger } from '../base/log.ts';
import type { Operations } from '../base/operations.ts';
import type { TaskSet } from '../base/task-set.ts';
import type { Images } from '../image/image.ts';
import type { CgroupMode } from '../os/cgroup.ts';
import type { RecordStore } from '../os/record-store.ts';
import type { Runtime } from '../runtime/runtime.ts';
import type { PodSandboxRecord } from '../sandbox/record.ts';
import type { Snapshotter } from '../snapshot/snapshotter.ts';
import type { AppArmor } from './apparmor.ts';
import type { CdiRegistry } from './cdi/registry.ts';
import type { DaemonFacts } from './oci-spec/spec.ts';
import type { ContainerRecord } from './record.ts';

export type ContainerEventType = 'created' | 'started' | 'stopped' | 'deleted';

/** Cgroup statistics are sampled while a container runs. */
export interface Sampled {
  register(id: string, cgroupPath: string): void;
  unregister(id: string): void;
}

/** Everything the use cases of this room work with. */
export interface ContainerDeps {
  readonly stateDir: string;
  readonly bootId: string;
  readonly cgroupMode: CgroupMode;
  readonly systemdCgroup: boolean;
  readonly facts: DaemonFacts;
  readonly log: Logger;
  readonly store: RecordStore<ContainerRecord>;
  readonly operations: Operations<ContainerRecord>;
  readonly locks: KeyedLock;
  readonly tasks: TaskSet;
  readonly images: Images;
  readonly snapshotter: Snapshotter;
  readonly cdi: CdiRegistry;
  readonly apparmor: AppArmor;
  readonly sampler: Sampled;
  /** Settles when the container's exit is in its record. */
  readonly exits: Map<string, Promise<void>>;
  /** Starts under way, by container; each settles when its outcome is in the record and told. */
  readonly starts: LastingWork;
  /** Removals under way, by container. */
  readonly removals: LastingWork;
  handler(name: string): Runtime;
  /** Of a container that exists: it can be ended, though its handler may not be configured any more. */
  handlerOf(name: string): Runtime;
  /** The live record of a sandbox; notFound. */
  sandbox(id: string): PodSandboxRecord;
  emit(type: ContainerEventType, record: ContainerRecord): void;
}
