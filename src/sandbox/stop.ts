import type { Op } from '../base/op.ts';
import type { SandboxDeps } from './deps.ts';
import { moved } from './record.ts';
import { quiesce } from './teardown.ts';

/**
 * CRI StopPodSandbox: ends every container, gives the network back, is idempotent; a sandbox that is gone is no error. A call joins the stop under way, which goes
 * on when its clients don't wait.
 */
export async function stopPodSandbox(deps: SandboxDeps, op: Op, id: string): Promise<void> {
  if (deps.store.get(id) === undefined) return;
  await deps.endings.run(op, `stop ${id}`, (own) => stop(deps, own, id));
}

async function stop(deps: SandboxDeps, op: Op, id: string): Promise<void> {
  using _ = await deps.locks.lock(id);
  const record = deps.store.get(id);
  if (record === undefined || record.state === 'removing') return;
  // NotReady before the first effect: from here on no container may be created in it (R33). Memory will do: nothing here waits for a disk that is full (R11).
  const stopped = moved(record, record.state === 'unknown' ? 'unknown' : 'notReady');
  await deps.store.note(stopped);
  op.span.stage('quiesce');
  try {
    await quiesce(deps, op, stopped);
    await deps.store.note({ ...moved(stopped, 'notReady'), networkBegun: false });
  } finally {
    // Also when something is left: it is NotReady for good, and the next attempt doesn't know that nobody was told.
    if (record.state === 'ready') deps.emit('stopped', deps.store.get(id) ?? stopped);
  }
}
