import { randomBytes } from 'node:crypto';
import { mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { ClassifiedError, messageOf } from '../base/errors.ts';
import { nowNs } from '../base/ids.ts';
import type { Op } from '../base/op.ts';
import { detached } from '../base/op.ts';
import type { ProcessRef } from '../os/process.ts';
import { signal } from '../os/process.ts';
import type { Child, ExitStatus } from '../os/spawn.ts';
import { spawn } from '../os/spawn.ts';
import { adoptedExit } from './adopted.ts';
import { openExecGroup } from './exec-group.ts';
import type { ExecGroup } from './exec-group.ts';
import type { Traits } from './features.ts';
import { readIfThere, readPid } from './state-dir.ts';
import { runtimeWords } from './words.ts';

const SIGKILL = 9;
/** How long a killed exec may take to be collected before the caller is answered anyway. */
const COLLECT_TIMEOUT_MS = 2000;
/** For the commands that kill inside of a sandbox; the caller's own time may be over. */
const KILL_TIMEOUT_MS = 10_000;

export interface ExecContext {
  readonly id: string;
  /** argv up to the verb. */
  readonly runtime: readonly string[];
  readonly runtimeName: string;
  /** Of the container; a directory per exec is made in it. */
  readonly dir: string;
  /** For console sockets: short, only root enters it. */
  readonly socketsDir: string;
  readonly cgroupPath: string | undefined;
  /** `exec --detach` leaves a process that we adopt; else the verb itself lives as long as the process and exits with its code. */
  readonly detaches: boolean;
  readonly subCgroups: Traits['subCgroups'];
  /** For processes that the host doesn't see (a sandbox's): kills what the exec started. */
  readonly killInside: ((op: Op, pidFile: string) => Promise<void>) | undefined;
}

/** Descriptors of ours; they stay the caller's. What is missing is /dev/null. */
export interface ExecStdio {
  readonly stdin?: number | undefined;
  readonly stdout?: number | undefined;
  readonly stderr?: number | undefined;
  /** Where the runtime is to send the master of the process' terminal; without one it gets none. */
  readonly consoleSocket?: string | undefined;
}

/** One process in a container without a monitor, and all that it starts. Disposing forgets it: what still runs belongs to the container from then on. */
export class ExecProcess implements AsyncDisposable {
  readonly #op: Op;
  readonly #context: ExecContext;
  readonly #dir: string;
  readonly #group: ExecGroup | undefined;
  #detaches = true;
  #child: Child | undefined;
  #startedAtNs = 0n;
  #root: ProcessRef | undefined;
  #exited: Promise<ExitStatus> | undefined;

  private constructor(op: Op, context: ExecContext, dir: string, group: ExecGroup | undefined) {
    this.#op = op;
    this.#context = context;
    this.#dir = dir;
    this.#group = group;
  }

  /** Makes its directory and, where there can be one, its cgroup. */
  static async prepare(op: Op, context: ExecContext): Promise<ExecProcess> {
    const name = `gantry-exec-${randomBytes(8).toString('hex')}`;
    const dir = join(context.dir, name);
    mkdirSync(dir, { mode: 0o700 });
    try {
      const grouped = context.cgroupPath !== undefined && !context.killInside;
      const group = grouped ? await openExecGroup(context.cgroupPath, name, context.subCgroups) : undefined;
      return new ExecProcess(op, context, dir, group);
    } catch (error) {
      rmSync(dir, { recursive: true, force: true });
      throw error;
    }
  }

  /** The process gets the descriptors themselves: nothing stands between it and us that could hold its output. `spec` is an OCI `process`. */
  async start(spec: Readonly<Record<string, unknown>>, stdio: ExecStdio): Promise<void> {
    const { runtime, killInside, id } = this.#context;
    const processFile = join(this.#dir, 'process.json');
    const env = Array.isArray(spec['env']) ? (spec['env'] as unknown[]) : [];
    const terminal = stdio.consoleSocket !== undefined;
    // runsc sends a terminal only when it detaches; what it leaves is a process of its own that ends as the sandbox's does.
    this.#detaches = this.#context.detaches || terminal;
    const process = { ...spec, terminal, env: [...env, ...(this.#group?.env ?? [])] };
    writeFileSync(processFile, JSON.stringify(process), { mode: 0o600 });
    const [program = '', ...globals] = runtime;
    this.#startedAtNs = nowNs();
    this.#child = spawn({
      argv: [
        program,
        ...globals,
        ...['--log', join(this.#dir, 'log'), '--log-format', 'json', 'exec'],
        ...(this.#detaches ? ['--detach'] : []),
        ...(stdio.consoleSocket === undefined ? [] : ['--console-socket', stdio.consoleSocket]),
        ...['--pid-file', join(this.#dir, 'pid'), ...(killInside ? ['--internal-pid-file', join(this.#dir, 'inside.pid')] : [])],
        ...['--process', processFile, ...(this.#group?.args ?? []), id],
      ],
      stdin: stdio.stdin ?? 'null',
      stdout: stdio.stdout ?? 'null',
      stderr: stdio.stderr ?? 'null',
    });
    this.#exited = this.#ended(this.#child);
    this.#exited.catch(() => undefined);
  }

  /**
   * Resolves when the process has ended, whatever it left running. failedPrecondition when the runtime couldn't start it: in its own words, out of its log, else
   * `stderr`, else only its exit code.
   */
  async exited(stderr: () => string = () => ''): Promise<ExitStatus> {
    try {
      return await (this.#exited ?? Promise.reject(new Error('not started')));
    } catch (error) {
      if (!(error instanceof NotStarted)) throw error;
      const said = runtimeWords(readIfThere(join(this.#dir, 'log')) ?? '') || runtimeWords(stderr());
      throw new ClassifiedError('failedPrecondition', said || `${this.#context.runtimeName} ended with ${error.exitCode}`);
    }
  }

  async #ended(child: Child): Promise<ExitStatus> {
    const status = await child.exited;
    const pid = readPid(join(this.#dir, 'pid'));
    if (pid === undefined || (this.#detaches && status.exitCode !== 0)) throw new NotStarted(status.exitCode);
    if (!this.#detaches) return status;
    const adopted = adoptedExit(pid, this.#startedAtNs);
    this.#root = adopted.ref;
    return adopted.exited;
  }

  /** SIGKILL to all that it started, however it detached itself (R14). Resolves when it is gone, or after a deadline. Never fails. */
  async kill(): Promise<void> {
    const { killInside, id } = this.#context;
    try {
      if (killInside) await killInside(detached(this.#op, KILL_TIMEOUT_MS), join(this.#dir, 'inside.pid'));
      if (killInside && this.#root) signal(this.#root, SIGKILL);
      await this.#group?.kill(this.#root);
    } catch (error) {
      this.#op.log.warn({ container: id, err: messageOf(error) }, 'kill of an exec failed');
    }
    this.#child?.kill(SIGKILL);
    const settled = this.#exited?.catch(() => undefined);
    await Promise.race([settled, sleep(COLLECT_TIMEOUT_MS, undefined, { ref: false })]);
    // a runtime that was killed halfway may have put its process into the group since
    await this.#group?.kill(this.#root);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    try {
      await this.#group?.release();
    } catch (error) {
      this.#op.log.warn({ container: this.#context.id, err: messageOf(error) }, 'exec cgroup stays');
    }
    rmSync(this.#dir, { recursive: true, force: true });
  }
}

class NotStarted extends Error {
  readonly exitCode: number;

  constructor(exitCode: number) {
    super('the runtime did not start the process');
    this.exitCode = exitCode;
  }
}
