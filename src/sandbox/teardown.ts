import { ClassifiedError, messageOf } from '../base/errors.ts';
import type { Op } from '../base/op.ts';
import { within } from '../base/op.ts';
import { isPinned, removeNamespaces } from '../os/namespaces.ts';
import type { SandboxDeps } from './deps.ts';
import { removePodFiles } from './files.ts';
import { podPaths } from './paths.ts';
import type { PodSandboxRecord } from './record.ts';
import { moved, networkOf, networkRequest } from './record.ts';
import { removePodCgroup } from './resources.ts';

const STEP_TIMEOUT_MS = 60_000;

type Step = readonly [label: string, run: (op: Op) => Promise<unknown>];

/**
 * Ends what makes the sandbox run: containers, network, pause process, namespaces. Idempotent steps of the record alone, so rollback,
 * stop, remove and recovery share them. All of them run; the error names those that failed.
 */
export async function quiesce(deps: SandboxDeps, op: Op, record: PodSandboxRecord): Promise<void> {
  const paths = podPaths(deps.stateDir, record.id);
  // After a reboot nothing is pinned: the plugins get no netns and release what they recorded (R4).
  const pin = `${paths.namespaces}/net`;
  const netns = isPinned(pin) ? pin : '';
  await allOf(op, [
    ['stop containers', (step) => deps.containers.stopAll(step, record.id)],
    ['stop pause process', (step) => deps.pause.remove(step, record)],
  ]);
  await allOf(op, [
    [
      'detach network',
      async (step) => (record.networkBegun ? deps.network.detach(step, networkRequest(record, netns), networkOf(record)) : undefined),
    ],
  ]);
  await allOf(op, [['remove namespaces', () => removeNamespaces(paths.namespaces)]]);
}

/** `quiesce`, and then everything else that exists because of the sandbox, save its record. */
export async function teardown(deps: SandboxDeps, op: Op, record: PodSandboxRecord): Promise<void> {
  await quiesce(deps, op, record);
  await allOf(op, [
    ['remove containers', (step) => deps.containers.removeAll(step, record.id)],
    ['remove pod files', () => removePodFiles(podPaths(deps.stateDir, record.id))],
    ['remove cgroup', () => removePodCgroup(deps.store, record)],
  ]);
}

/** Undo of a run that failed, was abandoned or was cut short by a crash. What can't be undone stays listed as `unknown`, so that kubelet stops it again. */
export async function undoRun(deps: SandboxDeps, op: Op, record: PodSandboxRecord): Promise<void> {
  try {
    await teardown(deps, op, record);
    await deps.store.delete(record.id);
  } catch (error) {
    await deps.store.note({ ...moved(record, 'unknown'), failedSteps: [messageOf(error)] });
    throw error;
  }
}

async function allOf(op: Op, steps: readonly Step[]): Promise<void> {
  const results = await Promise.allSettled(steps.map(async ([, run]) => run(within(op, STEP_TIMEOUT_MS))));
  const failed = results.flatMap((result, index) =>
    result.status === 'rejected' ? [{ label: steps[index]?.[0] ?? '', error: result.reason as unknown }] : [],
  );
  const first = failed[0];
  if (first === undefined) return;
  throw new ClassifiedError('internal', failed.map(({ label, error }) => `${label}: ${messageOf(error)}`).join('; '), {
    cause: first.error,
  });
}
