import { join } from 'node:path';
import type { Op } from '../base/op.ts';
import { newOp } from '../base/op.ts';
import { isPinned } from '../os/namespaces.ts';
import type { SandboxDeps } from './deps.ts';
import { watchPause } from './lost.ts';
import { podPaths } from './paths.ts';
import type { PodSandboxRecord } from './record.ts';
import { moved, parseSandboxRecord, pinnedNamespaces } from './record.ts';
import { removePodSandbox } from './remove.ts';
import { undoRun } from './teardown.ts';

const UNDO_TIMEOUT_MS = 120_000;

/**
 * After a start: what was half-done is undone in the background, what a reboot ended is NotReady, everything else goes on.
 * Nothing here makes the start fail (R6).
 */
export async function recoverPodSandboxes(deps: SandboxDeps): Promise<void> {
  for (const { id } of await deps.store.load(parseSandboxRecord)) {
    // Enough of a record to tear down everything that can be derived from its id.
    await deps.store.put(unreadable(deps, id));
  }
  for (const record of deps.store.values()) {
    if (record.state === 'creating') deps.tasks.start(`undo sandbox ${record.id}`, () => undoRun(deps, undoOp(deps), record));
    else if (record.state === 'removing') deps.tasks.start(`remove sandbox ${record.id}`, () => removeAgain(deps, record));
    else if (record.state === 'ready' && isLost(deps, record)) {
      await deps.store.put(moved(record, 'notReady'));
    } else if (record.state === 'ready') watchPause(deps, record);
  }
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

async function removeAgain(deps: SandboxDeps, record: PodSandboxRecord): Promise<void> {
  await deps.store.put(moved(record, 'notReady'));
  await removePodSandbox(deps, undoOp(deps), record.id);
}

function unreadable(deps: SandboxDeps, id: string): PodSandboxRecord {
  return {
    version: 1,
    id,
    state: 'unknown',
    config: {
      metadata: { name: 'unknown', uid: id, namespace: 'unknown', attempt: 0 },
      hostname: '',
      logDirectory: '',
      dnsConfig: null,
      portMappings: [],
      labels: {},
      annotations: {},
      linux: null,
      windows: null,
    },
    runtimeHandler: '',
    createdAtNs: '1',
    bootId: deps.bootId,
    cgroupParent: `/gantry/${id}`,
    ownsCgroupParent: true,
    networkBegun: true,
  };
}
