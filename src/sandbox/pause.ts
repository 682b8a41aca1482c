import type { Op } from '../base/op.ts';
import type { CreatedContainer } from '../runtime/runtime.ts';
import type { PodSandboxRecord } from './record.ts';

/** The process that holds a pod-shared PID namespace. Built like a container, so `container/pause.ts` implements it. */
export interface PauseProcess {
  start(op: Op, record: PodSandboxRecord): Promise<CreatedContainer>;
  /** Idempotent; also ends one whose start was cut short. */
  remove(op: Op, record: PodSandboxRecord): Promise<void>;
  /** The handler of a sandbox whose record is lost, as far as its pause process tells; "" when it doesn't. */
  handlerOf(id: string): Promise<string>;
  /** The pod has one and it is not running any more. */
  isGone(record: PodSandboxRecord): boolean;
  /** Calls back once when it ends. */
  watch(record: PodSandboxRecord, onExit: () => void): void;
}
