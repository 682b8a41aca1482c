import { ClassifiedError, messageOf } from '../base/errors.ts';
import { nowNs } from '../base/ids.ts';
import type { Op } from '../base/op.ts';
import type { ContainerDeps } from './deps.ts';
import { exited } from './exit.ts';
import { findContainer } from './list.ts';
import type { ContainerRecord } from './record.ts';
import { moved } from './record.ts';

/** What a start gets beyond its client's deadline: half of one is no start, and its container had to be ended. */
const GRACE_MS = 5_000;
const TIMEOUT_MS = 60_000;

/**
 * CRI StartContainer. A call joins the start under way, which goes on when its client has gone. failedPrecondition unless the container is `created` in a ready
 * sandbox; when the start fails it is `exited` with that reason.
 */
export async function startContainer(deps: ContainerDeps, op: Op, id: string): Promise<void> {
  const { id: full } = findContainer(deps, id);
  const timeoutMs = Math.min(TIMEOUT_MS, op.deadlineMs - Date.now() + GRACE_MS);
  await deps.starts.run(op, full, (own) => startLocked(deps, own, full), timeoutMs);
}

async function startLocked(deps: ContainerDeps, op: Op, id: string): Promise<void> {
  using _ = await deps.locks.lock(id);
  const record = findContainer(deps, id);
  if (record.state !== 'created') {
    throw new ClassifiedError('failedPrecondition', `start container ${id}: it is ${record.state}, only a created one can be started`);
  }
  if (deps.sandbox(record.sandboxId).state !== 'ready') {
    throw new ClassifiedError('failedPrecondition', `start container ${id}: pod sandbox ${record.sandboxId} is not ready`);
  }
  op.span.stage('runtime start');
  await start(deps, op, record);
}

async function start(deps: ContainerDeps, op: Op, record: ContainerRecord): Promise<void> {
  const { id } = record;
  const startedAtNs = String(nowNs());
  try {
    await deps.handler(record.runtimeHandler).start(op, id);
  } catch (error) {
    await exited(deps, id, { exitCode: 128, finishedAtNs: String(nowNs()), reason: 'StartError', message: messageOf(error) });
    throw error;
  }
  await started(deps, id, startedAtNs);
}

/** Moves a container that the runtime has started to `running` and says so. It runs, whether or not a full disk lets that be written. */
export async function started(deps: ContainerDeps, id: string, startedAtNs: string): Promise<void> {
  // Whoever ended it meanwhile (a stop) has told that already; otherwise an exit waits for this.
  const current = deps.store.get(id);
  if (current?.state === 'created') {
    const running = { ...moved(current, 'running'), startedAtNs };
    if (running.cgroupPath !== '') deps.sampler.register(id, running.cgroupPath);
    const saved = deps.store.note(running);
    deps.emit('started', running);
    await saved;
  } else if (current !== undefined) {
    await deps.store.note({ ...current, startedAtNs });
  }
}
