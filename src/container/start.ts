import { ClassifiedError, messageOf } from '../base/errors.ts';
import { nowNs } from '../base/ids.ts';
import type { Op } from '../base/op.ts';
import type { ContainerDeps } from './deps.ts';
import { exited } from './exit.ts';
import { findContainer } from './list.ts';
import type { ContainerRecord } from './record.ts';
import { moved } from './record.ts';

/** CRI StartContainer. failedPrecondition unless the container is `created` in a ready sandbox; when the start fails it is `exited` with that reason. */
export async function startContainer(deps: ContainerDeps, op: Op, id: string): Promise<void> {
  const { id: full } = findContainer(deps, id);
  using _ = await deps.locks.lock(full);
  const record = findContainer(deps, full);
  if (record.state !== 'created') {
    throw new ClassifiedError('failedPrecondition', `start container ${full}: it is ${record.state}, only a created one can be started`);
  }
  if (deps.sandbox(record.sandboxId).state !== 'ready') {
    throw new ClassifiedError('failedPrecondition', `start container ${full}: pod sandbox ${record.sandboxId} is not ready`);
  }
  op.span.stage('runtime start');
  const starting = Promise.withResolvers<void>();
  deps.starts.set(full, starting.promise);
  try {
    await start(deps, op, record);
  } finally {
    deps.starts.delete(full);
    starting.resolve();
  }
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
  // Whoever ended it meanwhile (a stop) has told that already; otherwise an exit waits for this.
  const current = deps.store.get(id) ?? record;
  if (current.state === 'created') {
    const running = { ...moved(current, 'running'), startedAtNs };
    if (running.cgroupPath !== '') deps.sampler.register(id, running.cgroupPath);
    await deps.store.put(running);
    deps.emit('started', running);
  } else {
    await deps.store.put({ ...current, startedAtNs });
  }
}
