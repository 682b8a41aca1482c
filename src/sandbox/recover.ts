import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { messageOf } from '../base/errors.ts';
import { isId } from '../base/ids.ts';
import type { Op } from '../base/op.ts';
import { newOp } from '../base/op.ts';
import { isPinned } from '../os/namespaces.ts';
import type { SandboxDeps } from './deps.ts';
import { watchPause } from './lost.ts';
import { podPaths } from './paths.ts';
import type { PodSandboxRecord } from './record.ts';
import { blankConfig, moved, parseSandboxRecord, pinnedNamespaces } from './record.ts';
import { removePodSandbox } from './remove.ts';
import { undoRun } from './teardown.ts';

const UNDO_TIMEOUT_MS = 120_000;

/**
 * After a start: what was half-done is undone in the background, what a reboot ended is NotReady, everything else goes on.
 * Nothing here makes the start fail (R6). Warm ones are the pool's, which looks at them itself.
 */
export async function recoverPodSandboxes(deps: SandboxDeps): Promise<void> {
  const broken = await deps.store.load(parseSandboxRecord);
  const lost = (await readdir(join(deps.stateDir, 'pods')).catch(() => [])).filter((id) => isId(id) && deps.store.get(id) === undefined);
  for (const id of new Set([...broken.map(({ id: name }) => name), ...lost])) await deps.store.note(await lostRecord(deps, id));
  for (const record of deps.store.values()) {
    try {
      await recover(deps, record);
    } catch (error) {
      deps.log.error({ sandbox: record.id, err: messageOf(error) }, 'a sandbox could not be recovered');
      await deps.store.note({ ...record, state: 'unknown', failedSteps: [messageOf(error)] });
    }
  }
}

async function recover(deps: SandboxDeps, record: PodSandboxRecord): Promise<void> {
  if (record.state === 'creating') deps.tasks.start(`undo sandbox ${record.id}`, () => undoRun(deps, undoOp(deps), record));
  else if (record.state === 'removing') {
    await deps.store.note(moved(record, 'notReady'));
    deps.tasks.start(`remove sandbox ${record.id}`, () => removePodSandbox(deps, undoOp(deps), record.id));
  } else if (record.state === 'ready' && isLost(deps, record)) await deps.store.note(moved(record, 'notReady'));
  else if (record.state === 'ready') watchPause(deps, record);
}

/** What the pod stood on ended with the machine, with its pause process or with the state directory. */
function isLost(deps: SandboxDeps, record: PodSandboxRecord): boolean {
  const { namespaces } = podPaths(deps.stateDir, record.id);
  return (
    record.bootId !== deps.bootId ||
    deps.pause.isGone(record) ||
    pinnedNamespaces(record.config).some((kind) => !isPinned(join(namespaces, kind)))
  );
}

const undoOp = (deps: SandboxDeps): Op => newOp('recover', { log: deps.log, timeoutMs: UNDO_TIMEOUT_MS });

/** Stands for a record that is lost or can't be read: enough to list it, and to take down everything that can be derived from its id. */
async function lostRecord(deps: SandboxDeps, id: string): Promise<PodSandboxRecord> {
  return {
    version: 1,
    id,
    state: 'unknown',
    config: blankConfig({ name: 'unknown', uid: id, namespace: 'unknown' }),
    runtimeHandler: await deps.pause.handlerOf(id),
    createdAtNs: '1',
    bootId: deps.bootId,
    cgroupParent: `/gantry/${id}`,
    ownsCgroupParent: true,
    networkBegun: true,
  };
}
