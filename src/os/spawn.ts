import { accessSync, closeSync, constants } from 'node:fs';
import { Socket } from 'node:net';
import { setPriority } from 'node:os';
import { delimiter, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { assert } from '../base/assert.ts';
import { ClassifiedError, errnoOf, wrap } from '../base/errors.ts';
import type { Op } from '../base/op.ts';
import { throwIfOver } from '../base/op.ts';
import { posixSpawn } from './posix-spawn.ts';
import type { ExitStatus, ProcessRef } from './process.ts';
import { processRef } from './process.ts';
import { claimChild, ensureReactor } from './reactor.ts';
import { O_CLOEXEC, pidfdOpen, pidfdSendSignal, pipe2 } from './syscalls.ts';

export type { ExitStatus } from './process.ts';

export interface SpawnOptions {
  /** argv[0] is an absolute path or looked up on PATH. */
  readonly argv: readonly string[];
  /** The child's whole environment; default only PATH. */
  readonly env?: Readonly<Record<string, string>>;
  readonly cwd?: string;
  /** A descriptor of ours, or 'null' (default) for /dev/null. */
  readonly stdin?: number | 'null';
  readonly stdout?: number | 'null';
  readonly stderr?: number | 'null';
  /** Child's descriptor number (>= 3) -> ours. Everything else is closed in the child. */
  readonly fds?: ReadonlyMap<number, number>;
  /** New session (and so a process group of its own). */
  readonly setsid?: boolean;
}

export interface Child extends ProcessRef {
  readonly exited: Promise<ExitStatus>;
  /** Through the pidfd: never hits a recycled pid; a gone child is no error. */
  kill(signal: number): void;
}

export interface RunOptions extends Omit<SpawnOptions, 'stdin' | 'stdout' | 'stderr' | 'setsid'> {
  readonly input?: string | Uint8Array;
  /** Of each stream; beyond it output is dropped and `truncated` set. Default 1 MiB. */
  readonly maxOutputBytes?: number;
  /** Of the process and its children, from its first instants on; 0 to 19. */
  readonly niceness?: number;
}

export interface RunResult extends ExitStatus {
  readonly stdout: Buffer;
  readonly stderr: Buffer;
  readonly truncated: boolean;
}

const SIGKILL = 9;
/** After its end, for what a child still has in its pipes; a grandchild that keeps them open is not waited for. */
const DRAIN_MS = 200;
/** SIGKILL doesn't end a process inside a call to a dead NFS server: it is given up, and collected whenever it ends. */
const GIVE_UP_MS = 500;
const DEFAULT_MAX_OUTPUT_BYTES = 1 << 20;
const DEFAULT_PATH = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin';

/** A pipe whose ends close on exec. The caller owns both. */
export const pipe = (): { read: number; write: number } => pipe2(O_CLOEXEC);

/**
 * posix_spawn: no copy of our heap's page tables, whatever its size. The child begins with an empty signal mask, default dispositions
 * (Node ignores SIGPIPE), only the descriptors named, and a process group of its own. failedPrecondition when the program can't be run.
 */
export function spawn(options: SpawnOptions): Child {
  ensureReactor();
  const [name = ''] = options.argv;
  const env = options.env ?? { PATH: process.env['PATH'] ?? DEFAULT_PATH };
  const envp = Object.entries(env).map(([key, value]) => `${key}=${value}`);
  if ([...options.argv, ...envp, options.cwd ?? ''].some((text) => text.includes('\0')))
    throw new ClassifiedError('invalidArgument', `run ${name}: an argument contains a NUL byte`);
  const path = lookUp(name);
  const streams = [options.stdin ?? 'null', options.stdout ?? 'null', options.stderr ?? 'null'] as const;
  const fds = new Map([...streams.entries(), ...(options.fds ?? [])]);
  try {
    return childOf(posixSpawn({ path, argv: options.argv, envp, cwd: options.cwd, fds, setsid: options.setsid === true }));
  } catch (error) {
    throw startFailure(error, name, options.cwd);
  }
}

function startFailure(error: unknown, name: string, cwd: string | undefined): unknown {
  const failed = (why: string): ClassifiedError => new ClassifiedError('failedPrecondition', `run ${name}: ${why}`, { cause: error });
  switch (errnoOf(error)) {
    case 'ENOENT':
      return failed(cwd === undefined ? 'not found' : `not found, or no directory ${cwd}`);
    case 'EACCES':
    case 'ENOEXEC':
    case 'ENOTDIR':
      return failed(`not executable (${errnoOf(error)})`);
    default:
      return error;
  }
}

function childOf(pid: number): Child {
  const pidfd = openPidfd(pid);
  // Until it is collected it has one, even if it has ended.
  const ref = processRef(pid);
  assert(ref !== undefined, 'a child is collected by nobody but the reactor');
  const { exited, isOver } = claimChild(ref, pidfd);
  return {
    ...ref,
    exited,
    kill(signal) {
      if (isOver()) return;
      try {
        pidfdSendSignal(pidfd, signal);
      } catch (error) {
        if (errnoOf(error) !== 'ESRCH') throw error;
      }
    },
  };
}

function openPidfd(pid: number): number {
  try {
    return pidfdOpen(pid);
  } catch (error) {
    // Out of descriptors: nobody could wait for it or end it.
    process.kill(pid, 'SIGKILL');
    throw error;
  }
}

/** By name: where it was found last. */
const found = new Map<string, string>();

function isProgram(path: string): boolean {
  try {
    accessSync(path, constants.X_OK);
    return true;
  } catch {
    return false;
  }
}

function lookUp(name: string): string {
  if (name.includes('/')) return name;
  const known = found.get(name);
  if (known !== undefined && isProgram(known)) return known;
  for (const dir of name === '' ? [] : (process.env['PATH'] ?? DEFAULT_PATH).split(delimiter)) {
    const path = join(dir, name);
    if (!isProgram(path)) continue;
    found.set(name, path);
    return path;
  }
  throw new ClassifiedError('failedPrecondition', `run ${name}: not found on PATH`);
}

/**
 * Runs a program to its end. A non-zero exit is a result, not an error. When the op ends first, the child's process group gets SIGKILL and the error is
 * deadlineExceeded or cancelled, at the latest half a second after that, even if the child can't die.
 */
export async function run(op: Op, options: RunOptions): Promise<RunResult> {
  throwIfOver(op);
  const out = pipe();
  const err = pipe();
  const input = options.input === undefined ? undefined : pipe();
  let child: Child;
  try {
    child = spawn({ ...options, stdin: input?.read ?? 'null', stdout: out.write, stderr: err.write });
  } catch (error) {
    for (const fd of [out.read, err.read, input?.write]) if (fd !== undefined) closeSync(fd);
    throw error;
  } finally {
    for (const fd of [out.write, err.write, input?.read]) if (fd !== undefined) closeSync(fd);
  }
  if (options.niceness !== undefined) beNice(child.pid, options.niceness);
  const stdin = input === undefined ? undefined : feed(input.write, options.input ?? '');
  const maxBytes = options.maxOutputBytes ?? DEFAULT_MAX_OUTPUT_BYTES;
  const stdout = collect(out.read, maxBytes);
  const stderr = collect(err.read, maxBytes);
  try {
    const status = await endOrKill(op, child);
    throwIfOver(op);
    assert(status !== undefined, 'a child is given up only when its operation is over');
    await Promise.race([Promise.all([stdout.ended, stderr.ended]), drained()]);
    return { ...status, stdout: stdout.bytes(), stderr: stderr.bytes(), truncated: stdout.truncated() || stderr.truncated() };
  } catch (error) {
    throw wrap(`run ${options.argv[0] ?? ''}`, error);
  } finally {
    stdin?.destroy();
    stdout.close();
    stderr.close();
  }
}

/** Of an event loop that stood still the timer may be up before it has looked at the pipes for the first time: they have their turn between the two. */
async function drained(): Promise<void> {
  await sleep(DRAIN_MS, undefined, { ref: false });
  await new Promise(setImmediate);
}

function beNice(pid: number, niceness: number): void {
  try {
    setPriority(pid, niceness);
  } catch {
    // It has ended, and was nobody's burden.
  }
}

/** undefined: the op is over and the child has not ended in spite of SIGKILL. */
async function endOrKill(op: Op, child: Child): Promise<ExitStatus | undefined> {
  const { promise: givenUp, resolve } = Promise.withResolvers<undefined>();
  let timer: NodeJS.Timeout | undefined;
  const onAbort = (): void => {
    killGroup(child);
    timer = setTimeout(() => resolve(undefined), GIVE_UP_MS);
  };
  op.signal.addEventListener('abort', onAbort, { once: true });
  try {
    return await Promise.race([child.exited, givenUp]);
  } finally {
    clearTimeout(timer);
    op.signal.removeEventListener('abort', onAbort);
  }
}

// The group is the child's own, made at its start. Its number can't be anybody else's as long as the child has not been collected.
function killGroup(child: Child): void {
  try {
    if (processRef(child.pid)?.startTime === child.startTime) process.kill(-child.pid, 'SIGKILL');
  } catch (error) {
    if (errnoOf(error) !== 'ESRCH') throw error;
  }
  child.kill(SIGKILL);
}

function feed(fd: number, input: string | Uint8Array): Socket {
  const socket = new Socket({ fd, readable: false, writable: true });
  // The child may end without reading all of it; its exit code tells.
  socket.on('error', () => undefined);
  socket.end(input);
  return socket;
}

function collect(fd: number, maxBytes: number): { ended: Promise<void>; bytes(): Buffer; truncated(): boolean; close(): void } {
  const socket = new Socket({ fd, readable: true, writable: false });
  const chunks: Buffer[] = [];
  let sizeBytes = 0;
  let truncated = false;
  const ended = new Promise<void>((resolve) => {
    socket.on('data', (chunk: Buffer) => {
      const kept = chunk.subarray(0, Math.max(0, maxBytes - sizeBytes));
      truncated ||= kept.length < chunk.length;
      sizeBytes += kept.length;
      if (kept.length > 0) chunks.push(kept);
    });
    socket.on('error', () => resolve());
    socket.on('close', () => resolve());
  });
  return { ended, bytes: () => Buffer.concat(chunks), truncated: () => truncated, close: () => socket.destroy() };
}
