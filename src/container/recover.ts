import { messageOf } from '../base/errors.ts';
import { nowNs } from '../base/ids.ts';
import type { ContainerDeps } from './deps.ts';
import { exited, unseenExit, watchExit } from './exit.ts';
import type { ContainerRecord } from './record.ts';
import { moved, parseContainerRecord } from './record.ts';
import { removeContainer } from './remove.ts';
import { cleanupOp, undoCreate } from './teardown.ts';

/** After a start: running ones are watched again, half-done creates are undone, removals finished. Never makes the start fail (R6). */
export async function recoverContainers(deps: ContainerDeps): Promise<void> {
  for (const { id } of await deps.store.load(parseContainerRecord)) await deps.store.put(unreadable(deps, id));
  for (const record of deps.store.values()) {
    try {
      await recover(deps, record);
    } catch (error) {
      deps.log.error({ container: record.id, err: messageOf(error) }, 'a container could not be recovered');
      await deps.store.put({ ...record, state: 'unknown', failedSteps: [messageOf(error)] });
    }
  }
}

async function recover(deps: ContainerDeps, record: ContainerRecord): Promise<void> {
  if (record.state === 'creating') {
    deps.tasks.start(`undo container ${record.id}`, () => undoCreate(deps, cleanupOp(deps, 'undo'), record));
    return;
  }
  if (record.state === 'removing') {
    await deps.store.put(moved(record, 'exited'));
    deps.tasks.start(`remove container ${record.id}`, () => removeContainer(deps, cleanupOp(deps, 'remove'), record.id));
  }
  if (record.state !== 'created' && record.state !== 'running') return;
  if (record.bootId !== deps.bootId) return exited(deps, record.id, unseenExit('the machine was rebooted'));
  if (record.state === 'running' && record.cgroupPath !== '') deps.sampler.register(record.id, record.cgroupPath);
  watchExit(deps, record);
}

function unreadable(deps: ContainerDeps, id: string): ContainerRecord {
  return {
    version: 1,
    id,
    sandboxId: '',
    state: 'unknown',
    config: {
      metadata: { name: 'unknown', attempt: 0 },
      image: null,
      command: [],
      args: [],
      workingDir: '',
      envs: [],
      mounts: [],
      devices: [],
      labels: {},
      annotations: {},
      logPath: '',
      stdin: false,
      stdinOnce: false,
      tty: false,
      linux: null,
      windows: null,
      CDIDevices: [],
      stopSignal: 'RUNTIME_DEFAULT',
    },
    imageId: `sha256:${'0'.repeat(64)}`,
    imageRef: '',
    runtimeHandler: '',
    bootId: deps.bootId,
    cgroupPath: '',
    logPath: '',
    stopSignal: 15,
    user: { uid: 0, gid: 0, additionalGids: [] },
    resources: null,
    createdAtNs: String(nowNs()),
    startedAtNs: '0',
  };
}
