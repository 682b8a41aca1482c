import { mkdirSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { digestOf, hexOf } from '../base/digest.ts';
import { ClassifiedError, errnoOf } from '../base/errors.ts';
import { writeJsonSync } from '../os/atomic-file.ts';
import type { ProcessRef } from '../os/process.ts';

/** What a driver remembers of a container; `created` is missing until `create` has succeeded. */
export interface ContainerState {
  readonly version: 1;
  readonly bundle: string;
  readonly logPath: string | undefined;
  readonly tty: boolean;
  /** As /proc/PID/cgroup spells it; undefined while the runtime hasn't said. */
  readonly cgroupPath: string | undefined;
  /** There are hooks for the runtime to run when it starts the container. */
  readonly hasStartHooks?: boolean;
  readonly created: { readonly init: ProcessRef; readonly monitor: ProcessRef } | undefined;
}

/** The files of one container. conmon writes `exit` and `oom` (persist dir), the pid files and, as its stderr, `monitorLog`. */
export interface ContainerFiles {
  readonly dir: string;
  readonly state: string;
  readonly monitorPid: string;
  readonly initPid: string;
  readonly exit: string;
  readonly oom: string;
  /** OOM kills that its cgroup had seen when Gantry sent SIGKILL: those after it are ours, not the kernel's. */
  readonly oomBaseline: string;
  readonly monitorLog: string;
  readonly runtimeLog: string;
  /** Short names below `sockets` (sun_path holds 107 bytes): conmon's symlink to the bundle, and its TMPDIR. */
  readonly socketLink: string;
  readonly consoleDir: string;
}

function isMissing(error: unknown): boolean {
  return errnoOf(error) === 'ENOENT';
}

/**
 * The directory of one handler's driver: `root` (the runtime's own), `c/<id>` and `s` (sockets). Survives the daemon, not a reboot: small files of a tmpfs, for
 * which the way to libuv's pool and back would take ten times as long.
 */
export class StateDir {
  readonly root: string;
  readonly sockets: string;
  readonly #containers: string;

  constructor(path: string) {
    this.root = join(path, 'root');
    this.sockets = join(path, 's');
    this.#containers = join(path, 'c');
    for (const dir of [this.root, this.sockets, this.#containers]) mkdirSync(dir, { recursive: true, mode: 0o700 });
  }

  files(id: string): ContainerFiles {
    if (!/^[A-Za-z0-9][A-Za-z0-9_.-]{0,127}$/.test(id)) throw new ClassifiedError('invalidArgument', `container id ${JSON.stringify(id)}`);
    const dir = join(this.#containers, id);
    return {
      dir,
      state: join(dir, 'state.json'),
      monitorPid: join(dir, 'monitor.pid'),
      initPid: join(dir, 'init.pid'),
      exit: join(dir, 'exit'),
      oom: join(dir, 'oom'),
      oomBaseline: join(dir, 'oom-baseline'),
      monitorLog: join(dir, 'monitor.log'),
      runtimeLog: join(dir, 'runtime.log'),
      socketLink: join(this.sockets, id),
      consoleDir: join(this.sockets, `${hexOf(digestOf(id)).slice(0, 16)}.t`),
    };
  }

  /** Claims the id; alreadyExists when there is state of it. */
  add(id: string, state: ContainerState): ContainerFiles {
    const files = this.files(id);
    try {
      mkdirSync(files.dir, { mode: 0o700 });
    } catch (error) {
      if (errnoOf(error) === 'EEXIST') throw new ClassifiedError('alreadyExists', `container ${id} exists`, { cause: error });
      throw error;
    }
    writeJsonSync(files.state, state);
    mkdirSync(files.consoleDir, { recursive: true, mode: 0o700 });
    return files;
  }

  write(id: string, state: ContainerState): void {
    writeJsonSync(this.files(id).state, state);
  }

  /** undefined when there is none, or none that can be read: what is left of it is found by other means. */
  read(id: string): ContainerState | undefined {
    let value: unknown;
    try {
      value = JSON.parse(readFileSync(this.files(id).state, 'utf8'));
    } catch {
      return undefined;
    }
    const state = value as Partial<ContainerState> | null | undefined;
    return state?.version === 1 && typeof state.bundle === 'string' ? (state as ContainerState) : undefined;
  }

  remove(id: string): void {
    const files = this.files(id);
    rmSync(files.socketLink, { force: true });
    rmSync(files.consoleDir, { recursive: true, force: true });
    rmSync(files.dir, { recursive: true, force: true });
  }

  ids(): string[] {
    return readdirSync(this.#containers);
  }
}

/** A small file of ours as text, undefined when it is missing. */
export function readIfThere(path: string): string | undefined {
  try {
    return readFileSync(path, 'utf8');
  } catch (error) {
    if (isMissing(error)) return undefined;
    throw error;
  }
}

export function readPid(path: string): number | undefined {
  const pid = Number.parseInt(readIfThere(path) ?? '', 10);
  return Number.isInteger(pid) && pid > 0 ? pid : undefined;
}
