import { ClassifiedError } from '../base/errors.ts';
import type { Op } from '../base/op.ts';
import type { ContainerDeps } from './deps.ts';
import { findContainer } from './list.ts';

/** CRI ReopenContainerLog: returns once a new file at the log path is the one written to (R25). failedPrecondition unless it runs. */
export async function reopenContainerLog(deps: ContainerDeps, op: Op, id: string): Promise<void> {
  const record = findContainer(deps, id);
  if (record.state !== 'running')
    throw new ClassifiedError('failedPrecondition', `reopen log of container ${record.id}: it is ${record.state}`);
  if (record.logPath === '') return;
  await deps.handler(record.runtimeHandler).reopenLog(op, record.id);
}
