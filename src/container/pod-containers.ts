import { setTimeout as sleep } from 'node:timers/promises';
import type { Op } from '../base/op.ts';
import { throwIfOver } from '../base/op.ts';
import type { PodContainers } from '../sandbox/deps.ts';
import type { ContainerDeps } from './deps.ts';
import type { ContainerRecord } from './record.ts';
import { removeContainer } from './remove.ts';
import { stopContainer } from './stop.ts';
import { undoCreate } from './teardown.ts';

const CREATE_PATIENCE_MS = 5_000;

/**
 * A create that still runs, or is being undone, makes cgroups below the pod's: the pod can't go before it. It ends by itself when it finds the sandbox not ready; one
 * that has ended and was never collected is undone here.
 */
async function settleCreates(deps: ContainerDeps, op: Op, sandboxId: string): Promise<void> {
  const creating = (): ContainerRecord[] =>
    deps.store.values().filter((record) => record.sandboxId === sandboxId && record.state === 'creating');
  for (const untilMs = Date.now() + CREATE_PATIENCE_MS; creating().length > 0 && Date.now() < untilMs;) {
    throwIfOver(op);
    await sleep(20);
  }
  for (const record of creating()) await undoCreate(deps, op, record);
}

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
    async removeAll(op: Op, sandboxId) {
      await forAll(sandboxId, (id) => removeContainer(deps, op, id));
      await settleCreates(deps, op, sandboxId);
    },
  };
}
