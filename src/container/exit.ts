import { setTimeout as sleep } from 'node:timers/promises';
import { messageOf } from '../base/errors.ts';
import { nowNs } from '../base/ids.ts';
import { isAlive } from '../os/process.ts';
import type { ContainerDeps } from './deps.ts';
import type { ContainerExit, ContainerRecord } from './record.ts';
import { containerPaths, moved } from './record.ts';
import { umountRootfs } from './rootfs.ts';
import { cleanupOp, endProcesses } from './teardown.ts';

/** How long an exit waits for the start that it overtook. */
const START_PATIENCE_MS = 10_000;

/** After a watch that failed, for want of a descriptor say. */
const RETRY_MS = 5_000;

/** Waits for init's end in the background, whoever started it, and puts it into the record. Once per container and daemon, and again when that fails. */
export function watchExit(deps: ContainerDeps, record: ContainerRecord, retryMs = RETRY_MS): void {
  const { process } = record;
  if (process === undefined || deps.exits.has(record.id)) return;
  const settled = (async () => {
    const exit = await deps.handlerOf(record.runtimeHandler).waitExit(record.id, process);
    // An init that ended at once: its start is told first, unless the runtime is stuck in it.
    const starting = deps.starts.get(record.id);
    if (starting) await Promise.race([starting.catch(() => undefined), sleep(START_PATIENCE_MS, undefined, { ref: false })]);
    await exited(deps, record.id, {
      exitCode: exit.exitCode,
      finishedAtNs: String(exit.exitedAtNs),
      reason: exit.oomKilled ? 'OOMKilled' : exit.exitCode === 0 ? 'Completed' : 'Error',
      message: '',
    });
  })().catch(async (error: unknown) => {
    deps.log.error({ container: record.id, err: messageOf(error) }, 'the exit of a container is not known');
    // Never running for nothing (R21); one that lives on is not watched for a while, which stop takes into account.
    if (isAlive(process.init)) {
      deps.exits.delete(record.id);
      setTimeout(() => {
        const current = deps.store.get(record.id);
        if (current?.state === 'created' || current?.state === 'running') watchExit(deps, current, retryMs);
      }, retryMs).unref();
    } else await exited(deps, record.id, unseenExit(`its exit is not known: ${messageOf(error)}`));
  });
  deps.exits.set(record.id, settled);
}

/** Moves a container to `exited`, ends what it left running (R17) and says so. A second report changes nothing. */
export async function exited(deps: ContainerDeps, id: string, exit: ContainerExit): Promise<void> {
  const record = deps.store.get(id);
  if (record === undefined || record.exit !== undefined || record.state === 'creating' || record.state === 'removing') return;
  deps.sampler.unregister(id);
  const done: ContainerRecord = { ...moved(record, 'exited'), exit };
  const saved = deps.store.note(done);
  // In memory it is a fact; a full disk doesn't keep it from being told.
  deps.emit('stopped', done);
  await saved;
  deps.tasks.start(`end container ${id}`, async () => {
    using _ = await deps.locks.lock(id);
    if (deps.store.get(id)?.state !== 'exited') return;
    const op = cleanupOp(deps, 'end');
    await endProcesses(deps, op, done);
    // Here nobody waits for it; the removal of its pod would.
    await umountRootfs(op, containerPaths(deps.stateDir, id));
  });
}

/** An end that nobody saw: the machine was rebooted, or the monitor died with the container. */
export const unseenExit = (message: string): ContainerExit => ({
  exitCode: 255,
  finishedAtNs: String(nowNs()),
  reason: 'Unknown',
  message,
});
