import type { FileHandle } from 'node:fs/promises';
import { open, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Hierarchies } from './cgroup-hierarchies.ts';
import { directoryOf, hierarchies, membershipsIn } from './cgroup-hierarchies.ts';

/** Shorter than the kernel remembers (an RCU grace period). */
const AGAIN_MS = 4;

/** Somebody may have moved this process to another cgroup meanwhile: then that is where it is moved to. */
const LOOK_MS = 1_000;

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
  void keep().then(
    () => {
      isKept = false;
      const leftMs = untilMs - performance.now();
      if (leftMs > 0) expectCgroupMoves(leftMs);
    },
    // It would have been faster, that is all.
    () => (isKept = false),
  );
}

async function keep(): Promise<void> {
  const path = procsFileOf(hierarchies(), await readFile('/proc/self/cgroup', 'utf8'));
  const lookMs = performance.now() + LOOK_MS;
  const file: FileHandle = await open(path, 'r+');
  try {
    for (; performance.now() < Math.min(untilMs, lookMs); await sleep(AGAIN_MS, undefined, { ref: false }))
      await file.write(String(process.pid), 0);
  } finally {
    await file.close();
  }
}

/** Of the cgroup that the text of /proc/self/cgroup (cgroups(7)) names, in any one hierarchy: they have the lock in common. */
export function procsFileOf(tree: Hierarchies, text: string): string {
  for (const { controllers, path } of membershipsIn(text)) {
    const controller = controllers.find((each) => (tree.mode === 'v2' ? each === '' : tree.v1.has(each)));
    if (controller !== undefined) return join(directoryOf(tree, path, controller), 'cgroup.procs');
  }
  throw new Error('this process is in no cgroup of a hierarchy that is mounted');
}
