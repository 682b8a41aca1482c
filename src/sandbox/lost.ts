import type { SandboxDeps } from './deps.ts';
import { moved } from './record.ts';
import type { PodSandboxRecord } from './record.ts';

/** A pod whose pause process ends has lost its PID namespace: it is NotReady from that moment, and kubelet makes another. */
export function watchPause(deps: SandboxDeps, record: PodSandboxRecord): void {
  if (record.pause === undefined) return;
  deps.pause.watch(record, () => {
    const current = deps.store.get(record.id);
    if (current?.state !== 'ready') return;
    const lost = moved(current, 'notReady');
    deps.tasks.start(`record loss of sandbox ${record.id}`, () => deps.store.note(lost));
    deps.emit('stopped', lost);
  });
}
