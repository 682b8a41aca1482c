import { close, closeSync, constants, open, openSync, writeSync } from 'node:fs';
import { rm, stat, writeFile } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import { ClassifiedError, errnoOf, messageOf } from '../base/errors.ts';
import type { Op } from '../base/op.ts';
import { orOver, throwIfOver } from '../base/op.ts';
import { createCgroup, joinCgroup } from '../os/cgroup.ts';
import type { ProcessRef } from '../os/process.ts';
import { processRef } from '../os/process.ts';
import type { Child } from '../os/spawn.ts';
import { pipe, spawn } from '../os/spawn.ts';
import { heldFiles, isOver } from './proc-scan.ts';
import { readLine } from './pipe-reader.ts';
import type { CreateRequest, CreatedContainer } from './runtime.ts';
import type { ContainerFiles } from './state-dir.ts';
import { readIfThere, readPid } from './state-dir.ts';
import { runtimeWords } from './words.ts';

/** Child's descriptors of conmon's two pipes; their numbers go into its environment. */
const SYNC_FD = 3;
const START_FD = 4;
const DEFAULT_PATH = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin';

export interface MonitorOptions {
  readonly conmonPath: string;
  /** Absolute: conmon checks it with access(2). */
  readonly runtimePath: string;
  /** Arguments before the verb, `--root` among them. */
  readonly runtimeArgs: readonly string[];
  readonly socketsDir: string;
  /** conmon's console socket gets a directory of its own as TMPDIR. gVisor makes its sandbox's root in TMPDIR, as nobody: not for it. */
  readonly ownConsoleDir: boolean;
  /** Where monitors live; undefined: where the daemon does. */
  readonly cgroup: string | undefined;
}

/** conmon's command line for `create` (conmon 2.1, --help). */
export function monitorArgv(options: MonitorOptions, files: ContainerFiles, request: CreateRequest): string[] {
  const { id, bundle, io } = request;
  const runtimeArgs = [...options.runtimeArgs, `--log=${files.runtimeLog}`, '--log-format=json'];
  return [
    options.conmonPath,
    ...['--api-version', '1', '-c', id, '-u', id, '-n', id, '-b', bundle],
    ...['-r', options.runtimePath, ...runtimeArgs.map((arg) => `--runtime-arg=${arg}`)],
    ...['-p', files.initPid, '-P', files.monitorPid, '--persist-dir', files.dir, '--socket-dir-path', options.socketsDir],
    ...['-l', io.logPath === undefined ? 'none' : `k8s-file:${io.logPath}`, '--log-level', 'warning', '--no-sync-log'],
    ...(io.tty ? ['-t'] : []),
    ...(io.stdin ? ['-i'] : []),
    ...(io.stdin && !io.stdinOnce ? ['--leave-stdin-open'] : []),
  ];
}

/** What conmon says on its sync pipe: init's pid, or a negative number and the runtime's words. */
export function parseSyncLine(line: string): { pid: number; message: string } {
  const found = /"(?:data|pid)"\s*:\s*(-?\d+)/.exec(line);
  let message = '';
  try {
    const parsed = JSON.parse(line) as { message?: unknown };
    if (typeof parsed.message === 'string') message = parsed.message;
  } catch {
    // conmon escapes less than JSON asks for; the text itself still tells what happened
    message = /"message"\s*:\s*"([\s\S]*)"\s*}/.exec(line)?.[1] ?? line;
  }
  return { pid: found?.[1] === undefined ? -1 : Number(found[1]), message };
}

/** Not fatal when it can't be: where the daemon is, is outside the pod's limit too (R20). */
async function place(op: Op, cgroup: string | undefined, pid: number): Promise<void> {
  if (cgroup === undefined) return;
  try {
    await createCgroup(cgroup);
    await joinCgroup(cgroup, pid);
  } catch (error) {
    op.log.warn({ cgroup, err: messageOf(error) }, 'monitor stays in the cgroup of the daemon');
  }
}

/** What the files that conmon and the runtime left say about a failed create. */
async function failureWords(files: ContainerFiles, message: string): Promise<string> {
  const said = runtimeWords(message);
  if (said !== '') return said;
  for (const path of [files.runtimeLog, files.monitorLog]) {
    const words = runtimeWords(readIfThere(path) ?? '');
    if (words !== '') return words;
  }
  return 'the monitor ended without a word';
}

async function readSync(op: Op, child: Child, fd: number): Promise<string | undefined> {
  const line = readLine(fd);
  try {
    return await orOver(op, line.done);
  } catch (error) {
    child.kill(9);
    throw error;
  } finally {
    line.close();
  }
}

/**
 * Starts conmon, which runs `<runtime> create`, and returns once the container is created. On error (the runtime's own words)
 * processes may remain: the caller ends them by `endHalfCreated` and deletes.
 */
export async function startMonitor(
  op: Op,
  options: MonitorOptions,
  files: ContainerFiles,
  request: CreateRequest,
): Promise<CreatedContainer> {
  const sync = pipe();
  const start = pipe();
  const log = openSync(files.monitorLog, 'a', 0o600);
  let child: Child;
  try {
    child = spawn({
      argv: monitorArgv(options, files, request),
      env: {
        PATH: process.env['PATH'] ?? DEFAULT_PATH,
        ...(request.io.tty && options.ownConsoleDir ? { TMPDIR: files.consoleDir } : {}),
        _OCI_SYNCPIPE: String(SYNC_FD),
        _OCI_STARTPIPE: String(START_FD),
      },
      cwd: files.dir,
      stderr: log,
      fds: new Map([
        [SYNC_FD, sync.write],
        [START_FD, start.read],
      ]),
    });
  } catch (error) {
    for (const fd of [sync.read, start.write]) closeSync(fd);
    throw error;
  } finally {
    for (const fd of [sync.write, start.read, log]) closeSync(fd);
  }
  try {
    await place(op, options.cgroup, child.pid);
    writeSync(start.write, '\0');
  } catch (error) {
    // EPIPE: it died before it could ask; the sync pipe's end tells the rest
    if (errnoOf(error) !== 'EPIPE') throw error;
  } finally {
    closeSync(start.write);
  }
  const line = await readSync(op, child, sync.read);
  const { pid, message } = line === undefined ? { pid: -1, message: '' } : parseSyncLine(line);
  const init = pid > 0 ? processRef(pid) : undefined;
  const monitor = await monitorRef(files);
  if (!init || !monitor) throw new ClassifiedError('internal', await failureWords(files, message));
  return { init, monitor };
}

async function monitorRef(files: ContainerFiles): Promise<ProcessRef | undefined> {
  const pid = readPid(files.monitorPid);
  return pid === undefined ? undefined : processRef(pid);
}

const openAsync = promisify(open);
const closeAsync = promisify(close);

const withoutMonitor = (id: string, cause?: unknown): ClassifiedError =>
  new ClassifiedError('failedPrecondition', `container ${id} has no monitor that runs`, { cause });

/** One message to conmon's control FIFO; failedPrecondition when no conmon reads it. */
async function sendControl(bundle: string, id: string, message: string): Promise<void> {
  let fd: number;
  try {
    fd = await openAsync(`${bundle}/ctl`, constants.O_WRONLY | constants.O_NONBLOCK);
  } catch (error) {
    throw withoutMonitor(id, error);
  }
  try {
    writeSync(fd, message);
  } finally {
    await closeAsync(fd);
  }
}

/**
 * Makes conmon write to a new file at the log's path and returns once it does (R25). A log that it already writes to there is left
 * alone (the caller has not rotated, or repeats itself): replacing it would lose lines. Callers run one control message at a time. failedPrecondition when the
 * monitor has ended, before it or over it.
 */
export async function reopenLog(op: Op, target: { id: string; bundle: string; logPath: string; monitor: ProcessRef }): Promise<void> {
  const { id, bundle, logPath, monitor } = target;
  const current = await stat(logPath, { bigint: true }).catch(() => undefined);
  if (current && (await heldFiles(monitor.pid)).some(({ ino, dev }) => ino === current.ino && dev === current.dev)) return;
  // conmon opens this name and renames it over the log's; it dies when it can't, so whether it can is found out first
  const next = `${logPath}.tmp`;
  // of somebody else's making it may be a symlink
  await rm(next, { force: true });
  await writeFile(next, '', { mode: 0o600, flag: 'wx' });
  const { ino } = await stat(next, { bigint: true });
  await sendControl(bundle, id, '2 0 0\n');
  for (let waitMs = 1; ; waitMs = Math.min(waitMs * 2, 50)) {
    throwIfOver(op);
    // Asked before the file is looked at: it may have done it and gone.
    const over = isOver(monitor);
    if ((await stat(logPath, { bigint: true }).catch(() => undefined))?.ino === ino) return;
    if (over) {
      await rm(next, { force: true });
      throw withoutMonitor(id);
    }
    await sleep(waitMs);
  }
}

/** Terminal size in characters, each 0-1000. conmon answers nothing; the pause keeps messages apart (before 2.2.0 two in one read lose one). */
export async function resizeTerminal(target: { id: string; bundle: string }, size: { width: number; height: number }): Promise<void> {
  const clamp = (value: number): number => Math.max(0, Math.min(1000, Math.trunc(value)));
  await sendControl(target.bundle, target.id, `1 ${clamp(size.height)} ${clamp(size.width)}\n`);
  await sleep(5);
}
