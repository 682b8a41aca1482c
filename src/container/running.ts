import { ClassifiedError } from '../base/errors.ts';
import type { ContainerDeps } from './deps.ts';
import { findContainer } from './list.ts';
import type { ContainerRecord } from './record.ts';

/** notFound, or failedPrecondition unless the container runs: `doing` begins the message. */
export function runningContainer(deps: Pick<ContainerDeps, 'store'>, id: string, doing: string): ContainerRecord {
  const record = findContainer(deps, id);
  if (record.state !== 'running') throw new ClassifiedError('failedPrecondition', `${doing} container ${record.id}: it is ${record.state}`);
  return record;
}
