import { messageOf } from '../base/errors.ts';
import { nowNs } from '../base/ids.ts';
import type { ContainerDeps } from './deps.ts';
import type { ContainerExit, ContainerRecord } from './record.ts';
import { moved } from './record.ts';
import { cleanupOp, endProcesses } from './teardown.ts';

/** Waits for init's end in the background, whoever started it, and puts it into the record. Once per container and daemon. */
export function watchExit(deps: ContainerDeps, record: ContainerRecord): void {
  const { process } = record;
  if (process === undefined || deps.exits.has(record.id)) return;
  const settled = (async () => {
    const exit = await deps.handler(record.runtimeHandler).waitExit(record.id, process);
    await exited(deps, record.id, {
      exitCode: exit.exitCode,
      finishedAtNs: String(exit.exitedAtNs),
      reason: exit.oomKilled ? 'OOMKilled' : exit.exitCode === 0 ? 'Completed' : 'Error',
      message: '',
    });
  })().catch((error: unknown) => deps.log.error({ container: record.id, err: messageOf(error) }, 'the exit of a container is not known'));
  deps.exits.set(record.id, settled);
}

/** Moves a container to `exited`, ends what it left running (R17) and says so. A second report changes nothing. */
export async function exited(deps: ContainerDeps, id: string, exit: ContainerExit): Promise<void> {
  const record = deps.store.get(id);
  if (record === undefined || record.exit !== undefined || record.state === 'creating' || record.state === 'removing') return;
  deps.sampler.unregister(id);
  const done: ContainerRecord = { ...moved(record, 'exited'), exit };
  await deps.store.put(done);
  deps.emit('stopped', done);
  deps.tasks.start(`end container ${id}`, async () => {
    using _ = await deps.locks.lock(id);
    if (deps.store.get(id)?.state === 'exited') await endProcesses(deps, cleanupOp(deps, 'end'), done);
  });
}

/** An end that nobody saw: the machine was rebooted, or the monitor died with the container. */
export const unseenExit = (message: string): ContainerExit => ({
  exitCode: 255,
  finishedAtNs: String(nowNs()),
  reason: 'Unknown',
  message,
});
