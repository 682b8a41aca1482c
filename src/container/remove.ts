import { messageOf } from '../base/errors.ts';
import type { Op } from '../base/op.ts';
import type { ContainerDeps } from './deps.ts';
import { moved } from './record.ts';
import { stopContainer } from './stop.ts';
import { teardown } from './teardown.ts';

/**
 * CRI RemoveContainer: kills it when it runs, leaves nothing. Idempotent; a failure leaves it listed as exited so that it is tried again. A call joins the removal
 * under way, which goes on when its clients don't wait.
 */
export async function removeContainer(deps: ContainerDeps, op: Op, id: string): Promise<void> {
  const found = deps.store.get(id) ?? deps.store.values().find((record) => id !== '' && record.id.startsWith(id));
  if (found === undefined || found.state === 'creating') return;
  await deps.removals.run(op, found.id, (own) => remove(deps, own, found.id));
}

async function remove(deps: ContainerDeps, op: Op, id: string): Promise<void> {
  await stopContainer(deps, op, id, 0);
  using _ = await deps.locks.lock(id);
  const record = deps.store.get(id);
  if (record === undefined) return;
  const removing = moved(record, 'removing');
  // Memory will do: a full disk must not keep it (R11).
  await deps.store.note(removing);
  op.span.stage('teardown');
  try {
    await teardown(deps, op, removing);
  } catch (error) {
    await deps.store.note({ ...moved(removing, 'exited'), failedSteps: [messageOf(error)] });
    throw error;
  }
  deps.exits.delete(id);
  await deps.store.delete(id);
  deps.emit('deleted', removing);
}
