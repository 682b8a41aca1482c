import { messageOf } from '../base/errors.ts';
import type { Op } from '../base/op.ts';
import type { SandboxDeps } from './deps.ts';
import { moved } from './record.ts';
import { stopPodSandbox } from './stop.ts';
import { teardown } from './teardown.ts';

/**
 * CRI RemovePodSandbox: ends it when it still runs, removes its containers, leaves nothing. Idempotent; a failure leaves it listed as NotReady. A call joins the
 * removal under way, which goes on when its clients don't wait.
 */
export async function removePodSandbox(deps: SandboxDeps, op: Op, id: string): Promise<void> {
  if (deps.store.get(id) === undefined) return;
  await deps.endings.run(op, `remove ${id}`, (own) => remove(deps, own, id));
}

async function remove(deps: SandboxDeps, op: Op, id: string): Promise<void> {
  // One that was stopped, or is just being stopped under the lock, is quiet but for what failed: the teardown begins with that.
  if (deps.store.get(id)?.state !== 'notReady') await stopPodSandbox(deps, op, id);
  using _ = await deps.locks.lock(id);
  const record = deps.store.get(id);
  if (record === undefined) return;
  const removing = moved(record, 'removing');
  await deps.store.note(removing);
  op.span.stage('teardown');
  try {
    await teardown(deps, op, removing);
  } catch (error) {
    await deps.store.note({ ...moved(removing, 'notReady'), failedSteps: [messageOf(error)] });
    throw error;
  }
  await deps.store.delete(id);
  deps.emit('deleted', removing);
}
