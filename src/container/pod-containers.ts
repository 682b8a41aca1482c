import type { Op } from '../base/op.ts';
import type { PodContainers } from '../sandbox/deps.ts';
import type { ContainerDeps } from './deps.ts';
import { removeContainer } from './remove.ts';
import { stopContainer } from './stop.ts';

/** The containers of a pod, for the sandbox room. */
export function createPodContainers(deps: ContainerDeps): PodContainers {
  const forAll = async (sandboxId: string, work: (id: string) => Promise<void>): Promise<void> => {
    const ids = deps.store.values().flatMap((record) => (record.sandboxId === sandboxId && record.state !== 'creating' ? [record.id] : []));
    const results = await Promise.allSettled(ids.map(work));
    const failed = results.flatMap((result) => (result.status === 'rejected' ? [result.reason as unknown] : []));
    if (failed.length > 0) throw new AggregateError(failed);
  };
  return {
    stopAll: (op: Op, sandboxId) => forAll(sandboxId, (id) => stopContainer(deps, op, id, 0)),
    removeAll: (op: Op, sandboxId) => forAll(sandboxId, (id) => removeContainer(deps, op, id)),
  };
}
