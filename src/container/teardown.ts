import { messageOf } from '../base/errors.ts';
import { newOp, within } from '../base/op.ts';
import type { Op } from '../base/op.ts';
import type { ContainerDeps } from './deps.ts';
import { removeImageVolumes } from './image-volumes.ts';
import type { ContainerRecord } from './record.ts';
import { containerPaths, moved } from './record.ts';
import { removeRootfs } from './rootfs.ts';

const DELETE_TIMEOUT_MS = 60_000;

/**
 * Everything that exists because of the container, save its record: processes, cgroup, monitor, runtime state, image volumes, rootfs, snapshot.
 * A function of the record alone and idempotent, so rollback, remove and recovery share it.
 */
export async function teardown(deps: ContainerDeps, op: Op, record: ContainerRecord): Promise<void> {
  deps.sampler.unregister(record.id);
  await endProcesses(deps, op, record);
  await removeImageVolumes(deps, op, record.id);
  await removeRootfs(deps.snapshotter, op, containerPaths(deps.stateDir, record.id), record.id);
  deps.images.released();
}

/** Processes, cgroup, monitor and the runtime's state; what is left is what `exited` means. */
export async function endProcesses(deps: ContainerDeps, op: Op, record: ContainerRecord): Promise<void> {
  await deps.handlerOf(record.runtimeHandler).delete(within(op, DELETE_TIMEOUT_MS), record.id);
}

/** Undo of a create that failed, was abandoned or was cut short by a crash. What can't be undone stays listed as `unknown`, so that kubelet removes it again. */
export async function undoCreate(deps: ContainerDeps, op: Op, record: ContainerRecord): Promise<void> {
  try {
    await teardown(deps, op, record);
    await deps.store.delete(record.id);
  } catch (error) {
    await deps.store.note({ ...moved(record, 'unknown'), failedSteps: [messageOf(error)] });
    throw error;
  }
}

/** For work that no request owns. */
export const cleanupOp = (deps: ContainerDeps, name: string): Op => newOp(name, { log: deps.log, timeoutMs: 2 * DELETE_TIMEOUT_MS });
