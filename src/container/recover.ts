import { messageOf } from '../base/errors.ts';
import { isId, nowNs } from '../base/ids.ts';
import { newOp } from '../base/op.ts';
import type { ContainerDeps } from './deps.ts';
import { exited, unseenExit, watchExit } from './exit.ts';
import { lostContainers, lostRecord } from './lost-record.ts';
import type { ContainerRecord } from './record.ts';
import { moved, parseContainerRecord } from './record.ts';
import { removeContainer } from './remove.ts';
import { started } from './start.ts';
import { cleanupOp, undoCreate } from './teardown.ts';

/** A runtime that hangs must not keep the daemon from serving (R6). */
const STATE_TIMEOUT_MS = 2_000;

/** After a start: running ones are watched again, half-done creates are undone, removals finished. Never makes the start fail (R6). */
export async function recoverContainers(deps: ContainerDeps): Promise<void> {
  const broken = await deps.store.load(parseContainerRecord);
  const lost = await lostContainers(deps);
  for (const id of new Set([...broken.map(({ id: name }) => name), ...lost])) await deps.store.note(await lostRecord(deps, id));
  for (const record of deps.store.values()) {
    try {
      await recover(deps, record);
    } catch (error) {
      deps.log.error({ container: record.id, err: messageOf(error) }, 'a container could not be recovered');
      await deps.store.note({ ...record, state: 'unknown', failedSteps: [messageOf(error)] });
    }
  }
  await Promise.all(deps.store.values().flatMap((record) => (record.state === 'created' ? [recoverStart(deps, record)] : [])));
}

/** The daemon may have been killed after a start and before that was in the record: only the runtime knows, and kubelet would start another beside it. */
async function recoverStart(deps: ContainerDeps, record: ContainerRecord): Promise<void> {
  try {
    const op = newOp('recover', { log: deps.log, timeoutMs: STATE_TIMEOUT_MS });
    if (await deps.handler(record.runtimeHandler).isStarted(op, record.id)) await started(deps, record.id, String(nowNs()));
  } catch (error) {
    deps.log.warn({ container: record.id, err: messageOf(error) }, 'whether a container has been started is not known');
  }
}

/** Writable layers of nobody: after a reboot they are all that is left of a container whose record is lost. */
export async function removeLostSnapshots(deps: ContainerDeps, isSandbox: (id: string) => boolean): Promise<void> {
  for (const key of await deps.snapshotter.keys()) {
    const [id = ''] = key.split('.');
    if (!isId(id) || isSandbox(id) || deps.store.get(id) !== undefined) continue;
    deps.log.warn({ snapshot: key }, 'removing the writable layer of a container that is not known');
    deps.tasks.start(`remove snapshot ${key}`, () => deps.snapshotter.remove(cleanupOp(deps, 'remove'), key));
  }
}

async function recover(deps: ContainerDeps, record: ContainerRecord): Promise<void> {
  if (record.state === 'creating') {
    deps.tasks.start(`undo container ${record.id}`, () => undoCreate(deps, cleanupOp(deps, 'undo'), record));
    return;
  }
  if (record.state === 'removing') {
    await deps.store.note(moved(record, 'exited'));
    deps.tasks.start(`remove container ${record.id}`, () => removeContainer(deps, cleanupOp(deps, 'remove'), record.id));
  }
  if (record.state !== 'created' && record.state !== 'running') return;
  if (record.bootId !== deps.bootId) return exited(deps, record.id, unseenExit('the machine was rebooted'));
  if (record.state === 'running' && record.cgroupPath !== '') deps.sampler.register(record.id, record.cgroupPath);
  watchExit(deps, record);
}
