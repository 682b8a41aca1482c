import { randomBytes } from 'node:crypto';
import { mkdir, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { ClassifiedError, messageOf } from '../base/errors.ts';
import { nowNs } from '../base/ids.ts';
import type { Op } from '../base/op.ts';
import { orOver } from '../base/op.ts';
import type { ProcessRef } from '../os/process.ts';
import type { Child, ExitStatus } from '../os/spawn.ts';
import { pipe, spawn } from '../os/spawn.ts';
import { adoptedExit } from './adopted.ts';
import { openExecGroup } from './exec-group.ts';
import type { ExecGroup } from './exec-group.ts';
import type { Traits } from './features.ts';
import { Capture, closeAll } from './pipe-reader.ts';
import type { ExecRequest, ExecResult } from './runtime.ts';
import { readIfThere, readPid } from './state-dir.ts';
import { runtimeWords } from './words.ts';

const SIGKILL = 9;
/** How long a killed exec may take to be collected before the caller is answered anyway. */
const COLLECT_TIMEOUT_MS = 2000;

export interface ExecContext {
  readonly id: string;
  /** argv up to the verb. */
  readonly runtime: readonly string[];
  readonly runtimeName: string;
  /** Of the container; a directory per exec is made in it. */
  readonly dir: string;
  readonly cgroupPath: string | undefined;
  /** `exec --detach` leaves a process that we adopt; else the verb itself lives as long as the process and exits with its code. */
  readonly detaches: boolean;
  readonly subCgroups: Traits['subCgroups'];
  /** For processes that the host doesn't see (a sandbox's): kills what the exec started. */
  readonly killInside: ((op: Op, pidFile: string) => Promise<void>) | undefined;
}

interface Running {
  readonly dir: string;
  readonly group: ExecGroup | undefined;
  readonly stdout: Capture;
  readonly stderr: Capture;
  readonly child: Child;
  readonly startedAtNs: bigint;
  root: ProcessRef | undefined;
}

function commandOf(request: ExecRequest): string {
  const { args } = request.process;
  const text = Array.isArray(args) ? args.map(String).join(' ') : '';
  return JSON.stringify(text.length > 100 ? `${text.slice(0, 100)}...` : text);
}

function withMark(spec: Readonly<Record<string, unknown>>, mark: readonly string[]): Record<string, unknown> {
  const env = Array.isArray(spec['env']) ? (spec['env'] as unknown[]) : [];
  return { ...spec, terminal: false, env: [...env, ...mark] };
}

/** The process gets the write ends of two pipes itself: nothing stands between it and us that could hold its output. */
async function launch(context: ExecContext, request: ExecRequest, dir: string, group: ExecGroup | undefined): Promise<Running> {
  const processFile = join(dir, 'process.json');
  await writeFile(processFile, JSON.stringify(withMark(request.process, group?.env ?? [])), { mode: 0o600 });
  const [program = '', ...globals] = context.runtime;
  const internal = context.killInside ? ['--internal-pid-file', join(dir, 'inside.pid')] : [];
  const out = pipe();
  const err = pipe();
  const startedAtNs = nowNs();
  let child: Child;
  try {
    child = spawn({
      argv: [
        program,
        ...globals,
        ...['--log', join(dir, 'log'), '--log-format', 'json', 'exec'],
        ...(context.detaches ? ['--detach'] : []),
        ...['--pid-file', join(dir, 'pid'), ...internal, '--process', processFile, ...(group?.args ?? []), context.id],
      ],
      stdout: out.write,
      stderr: err.write,
    });
  } catch (error) {
    closeAll([out.read, err.read]);
    throw error;
  } finally {
    closeAll([out.write, err.write]);
  }
  const max = request.maxOutputBytes;
  return { dir, group, child, startedAtNs, stdout: new Capture(out.read, max), stderr: new Capture(err.read, max), root: undefined };
}

/** Resolves when the exec'd process has ended; rejects when the runtime couldn't start it. */
async function ended(context: ExecContext, running: Running): Promise<ExitStatus> {
  const status = await running.child.exited;
  const pid = await readPid(join(running.dir, 'pid'));
  if (pid === undefined || (context.detaches && status.exitCode !== 0)) {
    const said = runtimeWords((await readIfThere(join(running.dir, 'log'))) ?? '') || runtimeWords(running.stderr.finish().toString());
    throw new ClassifiedError('failedPrecondition', said || `${context.runtimeName} ended with ${status.exitCode}`);
  }
  if (!context.detaches) return status;
  const adopted = adoptedExit(pid, running.startedAtNs);
  running.root = adopted.ref;
  return adopted.exited;
}

async function killTree(op: Op, context: ExecContext, running: Running, exited: Promise<unknown>): Promise<void> {
  try {
    if (context.killInside) await context.killInside(op, join(running.dir, 'inside.pid'));
    await running.group?.kill(running.root);
  } catch (error) {
    op.log.warn({ container: context.id, err: messageOf(error) }, 'kill of an exec failed');
  }
  running.child.kill(SIGKILL);
  await Promise.race([exited, sleep(COLLECT_TIMEOUT_MS, undefined, { ref: false })]);
  // a runtime that was killed halfway may have put its process into the group since
  await running.group?.kill(running.root);
}

function timeoutOf(ms: number | undefined): { over: Promise<'timeout'>; clear: () => void } {
  const { promise, resolve } = Promise.withResolvers<'timeout'>();
  const timer = ms === undefined ? undefined : setTimeout(() => resolve('timeout'), ms);
  return { over: promise, clear: () => clearTimeout(timer) };
}

/**
 * Runs one process in a container without a monitor and answers as soon as it ends (R15): children that it left keep running, in the
 * container. At the timeout, or when the op ends, all that it started is killed (R14): deadlineExceeded, or the op's error.
 */
export async function execSync(op: Op, context: ExecContext, request: ExecRequest): Promise<ExecResult> {
  const name = `gantry-exec-${randomBytes(8).toString('hex')}`;
  const dir = join(context.dir, name);
  const timeout = timeoutOf(request.timeoutMs);
  let group: ExecGroup | undefined;
  let running: Running | undefined;
  try {
    await mkdir(dir, { mode: 0o700 });
    if (context.cgroupPath !== undefined && !context.killInside) group = await openExecGroup(context.cgroupPath, name, context.subCgroups);
    running = await launch(context, request, dir, group);
    const exited = ended(context, running);
    const settled = exited.then(
      () => undefined,
      () => undefined,
    );
    let outcome: ExitStatus | 'timeout';
    try {
      outcome = await orOver(op, Promise.race([exited, timeout.over]));
    } catch (error) {
      if (op.signal.aborted) await killTree(op, context, running, settled);
      throw error;
    }
    if (outcome === 'timeout') {
      await killTree(op, context, running, settled);
      throw new ClassifiedError('deadlineExceeded', `exec sync ${commandOf(request)} timed out after ${request.timeoutMs} ms`);
    }
    const stdout = running.stdout.finish();
    const stderr = running.stderr.finish();
    return { exitCode: outcome.exitCode, stdout, stderr, truncated: running.stdout.truncated || running.stderr.truncated };
  } finally {
    timeout.clear();
    running?.stdout.finish();
    running?.stderr.finish();
    await group?.release().catch((error: unknown) => op.log.warn({ container: context.id, err: messageOf(error) }, 'exec cgroup stays'));
    await rm(dir, { recursive: true, force: true });
  }
}
