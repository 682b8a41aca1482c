import { existsSync, rmSync } from 'node:fs';
import { readdir, rm, rmdir } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { ClassifiedError, errnoOf, messageOf } from '../base/errors.ts';
import type { Op } from '../base/op.ts';
import { within } from '../base/op.ts';
import { cgroupMode, killCgroup, removeCgroup } from '../os/cgroup.ts';
import type { ProcessRef } from '../os/process.ts';
import { signal } from '../os/process.ts';
import { watchProcess } from '../os/reactor.ts';
import { run } from '../os/spawn.ts';
import { isOver, processesOf } from './proc-scan.ts';
import type { StateDir } from './state-dir.ts';
import { runtimeWords } from './words.ts';

const SIGKILL = 9;
const SIGCONT = 18;
/** What a monitor gets to write its exit file and go, once the last process is dead. */
const MONITOR_TIMEOUT_MS = 2000;
const GONE_TIMEOUT_MS = 5000;
const DELETE_TIMEOUT_MS = 10_000;

export interface TeardownTarget {
  readonly id: string;
  readonly stateDir: StateDir;
  /** argv up to the verb. */
  readonly runtime: readonly string[];
  /** The files behind conmon and the runtime. */
  readonly executables: readonly string[];
}

async function goneWithin(refs: readonly ProcessRef[], timeoutMs: number): Promise<boolean> {
  const all = Promise.all(refs.map((ref) => watchProcess(ref))).then(() => true);
  return Promise.race([all, sleep(timeoutMs, false, { ref: false })]);
}

/** conmon and runtime processes that name the id: what a create that was cut off left behind. Waits until they are gone (DESIGN 3.4). */
async function endHalfCreated(op: Op, target: TeardownTarget): Promise<void> {
  const untilMs = Date.now() + GONE_TIMEOUT_MS;
  for (;;) {
    const left = await processesOf(target.id, target.executables);
    if (left.length === 0) return;
    if (Date.now() > untilMs) throw new ClassifiedError('internal', `end processes of ${target.id}: ${left.length} survive SIGKILL`);
    op.log.warn({ container: target.id, pids: left.map(({ pid }) => pid) }, 'ending what a create left behind');
    for (const ref of left) signal(ref, SIGKILL);
    await goneWithin(left, 1000);
  }
}

/** Ends by itself once its container has; one that doesn't is continued, then killed (R5). */
async function endMonitor(op: Op, id: string, monitor: ProcessRef): Promise<void> {
  if (isOver(monitor) || (await goneWithin([monitor], MONITOR_TIMEOUT_MS))) return;
  op.log.warn({ container: id, monitor: monitor.pid }, 'monitor does not end, killing it');
  signal(monitor, SIGCONT);
  if (await goneWithin([monitor], 500)) return;
  signal(monitor, SIGKILL);
  await goneWithin([monitor], GONE_TIMEOUT_MS);
}

/** What a runtime keeps of a container below its `--root`: a directory (runc, crun) or files (runsc) that carry the id. */
async function runtimeState(root: string, id: string): Promise<string[]> {
  const names = await readdir(root).catch(() => []);
  return names.filter((name) => name === id || name.startsWith(`${id}_sandbox:`)).map((name) => join(root, name));
}

async function deleteFromRuntime(op: Op, { id, stateDir, runtime }: TeardownTarget): Promise<void> {
  if ((await runtimeState(stateDir.root, id)).length === 0) return;
  let words: string;
  try {
    const { exitCode, stderr } = await run(within(op, DELETE_TIMEOUT_MS), { argv: [...runtime, 'delete', '--force', id] });
    words = exitCode === 0 ? '' : runtimeWords(stderr.toString('utf8'));
  } catch (error) {
    words = messageOf(error);
  }
  const left = await runtimeState(stateDir.root, id);
  if (left.length === 0) return;
  // it can't read what it wrote, say because a SIGKILL cut it off; the processes and the cgroup are dealt with by us
  op.log.warn({ container: id, err: words }, 'runtime did not delete its state, removing it');
  for (const path of left) await rm(path, { recursive: true, force: true });
}

/** On a hybrid host runc makes its cgroup in the v2 tree too, and leaves it there when it was cut off. */
async function removeUnified(cgroup: string): Promise<void> {
  if (cgroupMode() !== 'hybrid') return;
  for (let attempt = 0; ; attempt++) {
    try {
      await rmdir(join('/sys/fs/cgroup/unified', cgroup));
      return;
    } catch (error) {
      if (errnoOf(error) === 'ENOENT') return;
      if (errnoOf(error) !== 'EBUSY' || attempt === 25) throw error;
      await sleep(20);
    }
  }
}

function removeBundleFiles(bundle: string): void {
  for (const name of ['ctl', 'winsz', 'attach']) rmSync(join(bundle, name), { force: true });
}

/**
 * Takes a container apart, whatever state it is in: processes, monitor, the runtime's state, cgroup, files. Idempotent; on error its
 * files stay, so that it stays listed and the next delete goes on.
 */
export async function dismantle(op: Op, target: TeardownTarget): Promise<void> {
  const { id, stateDir } = target;
  // Its directory comes first and goes last: without one there is nothing, or what the runtime alone remembers.
  if (!existsSync(stateDir.files(id).dir)) return await deleteFromRuntime(op, target);
  const state = stateDir.read(id);
  const created = state?.created;
  if (!created) await endHalfCreated(op, target);
  const cgroup = state?.cgroupPath;
  if (created && !isOver(created.init)) signal(created.init, SIGKILL);
  if (cgroup !== undefined) await killCgroup(cgroup);
  if (created) await endMonitor(op, id, created.monitor);
  await deleteFromRuntime(op, target);
  if (cgroup !== undefined) await Promise.all([removeCgroup(cgroup), removeUnified(cgroup)]);
  if (state) removeBundleFiles(state.bundle);
  stateDir.remove(id);
}
