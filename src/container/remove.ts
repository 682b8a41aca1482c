import { messageOf } from '../base/errors.ts';
import type { Op } from '../base/op.ts';
import type { ContainerDeps } from './deps.ts';
import { moved } from './record.ts';
import { stopContainer } from './stop.ts';
import { teardown } from './teardown.ts';

/** CRI RemoveContainer: kills it when it runs, leaves nothing. Idempotent; a failure leaves it listed as exited so that it is tried again. */
export async function removeContainer(deps: ContainerDeps, op: Op, id: string): Promise<void> {
  const found = deps.store.get(id) ?? deps.store.values().find((record) => id !== '' && record.id.startsWith(id));
  if (found === undefined || found.state === 'creating') return;
  await stopContainer(deps, op, found.id, 0);
  using _ = await deps.locks.lock(found.id);
  const record = deps.store.get(found.id);
  if (record === undefined) return;
  const removing = moved(record, 'removing');
  await deps.store.put(removing);
  op.span.stage('teardown');
  try {
    await teardown(deps, op, removing);
  } catch (error) {
    await deps.store.put({ ...moved(removing, 'exited'), failedSteps: [messageOf(error)] });
    throw error;
  }
  deps.exits.delete(found.id);
  await deps.store.delete(found.id);
  deps.emit('deleted', removing);
}
