import type { Op } from '../base/op.ts';
import type { SandboxDeps } from './deps.ts';
import { moved } from './record.ts';
import { quiesce } from './teardown.ts';

/** CRI StopPodSandbox: ends every container, gives the network back, is idempotent; a sandbox that is gone is no error. */
export async function stopPodSandbox(deps: SandboxDeps, op: Op, id: string): Promise<void> {
  if (deps.store.get(id) === undefined) return;
  using _ = await deps.locks.lock(id);
  const record = deps.store.get(id);
  if (record === undefined || record.state === 'removing') return;
  // NotReady before the first effect: from here on no container may be created in it (R33).
  const stopped = moved(record, record.state === 'unknown' ? 'unknown' : 'notReady');
  await deps.store.put(stopped);
  op.span.stage('quiesce');
  try {
    await quiesce(deps, op, stopped);
    await deps.store.put({ ...moved(stopped, 'notReady'), networkBegun: false });
  } finally {
    // Also when something is left: it is NotReady for good, and the next attempt doesn't know that nobody was told.
    if (record.state === 'ready') deps.emit('stopped', deps.store.get(id) ?? stopped);
  }
}
