import { ClassifiedError, messageOf } from '../base/errors.ts';
import { nowNs } from '../base/ids.ts';
import type { Op } from '../base/op.ts';
import type { ContainerDeps } from './deps.ts';
import { exited } from './exit.ts';
import { findContainer } from './list.ts';
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
  const startedAtNs = String(nowNs());
  try {
    await deps.handler(record.runtimeHandler).start(op, full);
  } catch (error) {
    await exited(deps, full, { exitCode: 128, finishedAtNs: String(nowNs()), reason: 'StartError', message: messageOf(error) });
    throw error;
  }
  // An init that ended at once may be `exited` already; its start is still told first.
  const current = deps.store.get(full) ?? record;
  if (current.state === 'created') {
    const running = { ...moved(current, 'running'), startedAtNs };
    if (running.cgroupPath !== '') deps.sampler.register(full, running.cgroupPath);
    await deps.store.put(running);
    deps.emit('started', running);
  } else {
    await deps.store.put({ ...current, startedAtNs });
  }
}
