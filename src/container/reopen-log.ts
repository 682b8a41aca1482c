import type { Op } from '../base/op.ts';
import type { ContainerDeps } from './deps.ts';
import { runningContainer } from './running.ts';

/** CRI ReopenContainerLog: returns once a new file at the log path is the one written to (R25). failedPrecondition unless it runs. */
export async function reopenContainerLog(deps: ContainerDeps, op: Op, id: string): Promise<void> {
  const record = runningContainer(deps, id, 'reopen log of');
  if (record.logPath === '') return;
  await deps.handler(record.runtimeHandler).reopenLog(op, record.id);
}
