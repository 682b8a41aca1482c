import { existsSync } from 'node:fs';
import { mkdir, readFile, rmdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { errnoOf } from '../base/errors.ts';
import { cgroupMode, procsIn } from '../os/cgroup.ts';
import type { ProcessRef } from '../os/process.ts';
import { processRef, signal } from '../os/process.ts';
import type { Traits } from './features.ts';
import { processFacts } from './proc-scan.ts';

const CGROUPS = '/sys/fs/cgroup';
const SIGKILL = 9;
const SIGSTOP = 19;
const KILL_TIMEOUT_MS = 5000;

/** All processes of one exec, however they detach themselves (R14). */
export interface ExecGroup {
  /** Arguments for `<runtime> exec` that put the process into it. */
  readonly args: readonly string[];
  /** Environment that marks its processes, where there is no cgroup for them. */
  readonly env: readonly string[];
  /** SIGKILL to every process; `root` is the exec'd one, if it is known. Resolves when none is left or the deadline is over. */
  kill(root: ProcessRef | undefined): Promise<void>;
  /** Forgets the group: what still runs in it belongs to the container from now on. */
  release(): Promise<void>;
}

async function pidsIn(dir: string): Promise<number[]> {
  try {
    return (await readFile(join(dir, 'cgroup.procs'), 'latin1')).split('\n').filter(Boolean).map(Number);
  } catch (error) {
    if (errnoOf(error) === 'ENOENT' || errnoOf(error) === 'ENODEV') return [];
    throw error;
  }
}

/** A file of a cgroup that may have gone, or that this kernel doesn't have. */
async function tell(file: string, value: string): Promise<boolean> {
  try {
    await writeFile(file, value);
    return true;
  } catch {
    return false;
  }
}

/** A cgroup below the container's: on v2 in the one tree, on v1 in the freezer's alone, so that no limit is split. */
class CgroupExecGroup implements ExecGroup {
  readonly args: readonly string[];
  readonly env: readonly string[] = [];
  readonly #parent: string;
  readonly #dir: string;

  constructor(parent: string, name: string, args: readonly string[]) {
    this.#parent = parent;
    this.#dir = join(parent, name);
    this.args = args;
  }

  async kill(): Promise<void> {
    const untilMs = Date.now() + KILL_TIMEOUT_MS;
    for (let waitMs = 1; ; waitMs = Math.min(waitMs * 2, 50)) {
      const pids = await pidsIn(this.#dir);
      if (pids.length === 0 || Date.now() > untilMs) return;
      if (!(await tell(join(this.#dir, 'cgroup.kill'), '1'))) await this.#killEach();
      await sleep(waitMs);
    }
  }

  /** Frozen, so that no fork escapes between the list and the signals; a frozen task dies when it thaws. */
  async #killEach(): Promise<void> {
    const frozen = await tell(join(this.#dir, 'freezer.state'), 'FROZEN');
    for (const pid of await pidsIn(this.#dir)) {
      const ref = processRef(pid);
      if (ref) signal(ref, SIGKILL);
    }
    if (frozen) await tell(join(this.#dir, 'freezer.state'), 'THAWED');
  }

  async release(): Promise<void> {
    for (let attempt = 0; attempt < 20; attempt++) {
      try {
        await rmdir(this.#dir);
        return;
      } catch (error) {
        if (errnoOf(error) === 'ENOENT') return;
        if (errnoOf(error) !== 'EBUSY') throw error;
      }
      for (const pid of await pidsIn(this.#dir)) await tell(join(this.#parent, 'cgroup.procs'), String(pid));
      if (attempt > 3) await sleep(attempt);
    }
  }
}

/**
 * Where the runtime can't place an exec (crun on cgroup v1 takes it out of the container's other cgroups): descendants, session and a
 * mark in the environment tell its processes. One that clears its environment, leaves the session and is orphaned escapes.
 */
class MarkedExecGroup implements ExecGroup {
  readonly args: readonly string[] = [];
  readonly env: readonly string[];
  readonly #cgroupPath: string;
  readonly #mark: string;

  constructor(cgroupPath: string, name: string) {
    this.#cgroupPath = cgroupPath;
    this.#mark = `GANTRY_EXEC=${name}`;
    this.env = [this.#mark];
  }

  async kill(root: ProcessRef | undefined): Promise<void> {
    const untilMs = Date.now() + KILL_TIMEOUT_MS;
    const found = new Map<number, ProcessRef>();
    for (;;) {
      const fresh = await this.#find(found, root);
      // stopped, so that none forks on while the others are looked for
      for (const ref of fresh) {
        signal(ref, SIGSTOP);
        found.set(ref.pid, ref);
      }
      if (fresh.length === 0 || Date.now() > untilMs) break;
    }
    for (const ref of found.values()) signal(ref, SIGKILL);
  }

  async #find(found: ReadonlyMap<number, ProcessRef>, root: ProcessRef | undefined): Promise<ProcessRef[]> {
    const fresh: ProcessRef[] = [];
    for (const pid of await procsIn(this.#cgroupPath)) {
      const facts = found.has(pid) ? undefined : processFacts(pid);
      if (!facts) continue;
      const related = pid === root?.pid || found.has(facts.parentPid) || facts.sessionId === root?.pid || (await this.#isMarked(pid));
      if (related) fresh.push({ pid, startTime: facts.startTime });
    }
    return fresh;
  }

  async #isMarked(pid: number): Promise<boolean> {
    try {
      return (await readFile(`/proc/${pid}/environ`, 'latin1')).split('\0').includes(this.#mark);
    } catch {
      return false;
    }
  }

  async release(): Promise<void> {}
}

/** `name` is unguessable and unique; `subCgroups`: where the runtime's `exec --cgroup` is to be trusted. */
export async function openExecGroup(cgroupPath: string, name: string, subCgroups: Traits['subCgroups']): Promise<ExecGroup> {
  const v2 = cgroupMode() === 'v2';
  const parent = join(CGROUPS, v2 ? '' : 'freezer', cgroupPath);
  const trusted = subCgroups === 'v1+v2' || (subCgroups === 'v2' && v2);
  if (!trusted || !existsSync(parent)) return new MarkedExecGroup(cgroupPath, name);
  await mkdir(join(parent, name));
  return new CgroupExecGroup(parent, name, ['--cgroup', v2 ? `/${name}` : `freezer:/${name}`]);
}
