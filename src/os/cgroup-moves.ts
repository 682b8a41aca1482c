import type { FileHandle } from 'node:fs/promises';
import { open, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Hierarchies } from './cgroup-hierarchies.ts';
import { directoryOf, hierarchies } from './cgroup-hierarchies.ts';

/** Shorter than the kernel remembers (an RCU grace period). */
const AGAIN_MS = 4;

let untilMs = 0;
let isKept = false;

/**
 * Within the next `forMs` milliseconds a process will be moved into a cgroup, as each that a runtime starts is. Whoever is the first to do that for a while
 * waits for an RCU grace period, 8-16 ms and a half of what runc needs to create a container (Linux: cgroup_threadgroup_rwsem; not where cgroups are mounted with
 * `favordynmods`). Asked for as soon as a request comes, that time passes while everything else is made ready: this process is moved to where it is, which
 * changes nothing, again and again until the time is over, because the kernel forgets that soon. Costs 50 µs of a thread each time. Never fails.
 */
export function expectCgroupMoves(forMs: number): void {
  untilMs = Math.max(untilMs, performance.now() + forMs);
  if (isKept) return;
  isKept = true;
  void keep()
    // It would have been faster, that is all.
    .catch(() => undefined)
    .finally(() => (isKept = false));
}

async function keep(): Promise<void> {
  // Somebody may have moved us since the last time.
  const path = procsFileOf(hierarchies(), await readFile('/proc/self/cgroup', 'utf8'));
  const file: FileHandle = await open(path, 'w');
  try {
    for (; performance.now() < untilMs; await sleep(AGAIN_MS, undefined, { ref: false })) await file.write(String(process.pid), 0);
  } finally {
    await file.close();
  }
}

/** Of the cgroup that the text of /proc/self/cgroup (cgroups(7)) names, in any one hierarchy: they have the lock in common. */
export function procsFileOf(tree: Hierarchies, text: string): string {
  const lines = text.split('\n').flatMap((line) => {
    const [, controllers = '', path] = /^\d+:([^:]*):(\/.*)$/.exec(line) ?? [];
    return path === undefined ? [] : [{ controller: controllers.split(',')[0] ?? '', path }];
  });
  const own = lines.find(({ controller }) => (tree.mode === 'v2' ? controller === '' : tree.v1.has(controller)));
  return join(directoryOf(tree, own?.path ?? '/', own?.controller ?? ''), 'cgroup.procs');
}
