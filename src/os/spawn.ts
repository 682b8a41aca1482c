import { closeSync, constants, accessSync } from 'node:fs';
import { delimiter, join } from 'node:path';
import { Socket } from 'node:net';
import { constants as osConstants } from 'node:os';
import { setTimeout as sleep } from 'node:timers/promises';
import koffi from 'koffi';
import { ClassifiedError, errnoOf } from '../base/errors.ts';
import type { Op } from '../base/op.ts';
import { throwIfOver } from '../base/op.ts';
import type { ProcessRef } from './process.ts';
import { processRef } from './process.ts';
import { claimChild, ensureReactor } from './reactor.ts';
import { SyscallError, dupAbove, getNofile, O_CLOEXEC, pidfdOpen, pidfdSendSignal, pipe2, setNofile } from './syscalls.ts';

export interface ExitStatus {
  /** 0-255; 128 + signal when a signal ended it (the convention of shells and of the CRI). */
  readonly exitCode: number;
  readonly signal: number;
  readonly exitedAtNs: bigint;
}

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
}

export interface RunResult extends ExitStatus {
  readonly stdout: Buffer;
  readonly stderr: Buffer;
  readonly truncated: boolean;
}

const libc = koffi.load('libc.so.6');
const c = {
  actionsInit: libc.func('int posix_spawn_file_actions_init(void *actions)'),
  actionsDestroy: libc.func('int posix_spawn_file_actions_destroy(void *actions)'),
  addDup2: libc.func('int posix_spawn_file_actions_adddup2(void *actions, int from, int to)'),
  addOpen: libc.func('int posix_spawn_file_actions_addopen(void *actions, int fd, const char *path, int flags, unsigned int mode)'),
  addClose: libc.func('int posix_spawn_file_actions_addclose(void *actions, int fd)'),
  addCloseFrom: libc.func('int posix_spawn_file_actions_addclosefrom_np(void *actions, int from)'),
  addChdir: libc.func('int posix_spawn_file_actions_addchdir_np(void *actions, const char *path)'),
  attrInit: libc.func('int posix_spawnattr_init(void *attr)'),
  attrDestroy: libc.func('int posix_spawnattr_destroy(void *attr)'),
  attrFlags: libc.func('int posix_spawnattr_setflags(void *attr, short flags)'),
  attrMask: libc.func('int posix_spawnattr_setsigmask(void *attr, void *set)'),
  attrDefault: libc.func('int posix_spawnattr_setsigdefault(void *attr, void *set)'),
  posixSpawn: libc.func('int posix_spawn(void *pid, const char *path, void *actions, void *attr, const char **argv, const char **envp)'),
};

const SETPGROUP = 0x02;
const SETSIGDEF = 0x04;
const SETSIGMASK = 0x08;
const SETSID = 0x80;
/** Sizes of glibc's opaque structs and sigset_t, with room to spare. */
const ACTIONS_BYTES = 128;
const ATTR_BYTES = 512;
const SIGSET_BYTES = 128;
/** Sources of dup2 are moved above every number that a child is given, so that none is overwritten before it is copied. */
const LEAST_SOURCE_FD = 128;
const SIGKILL = 9;
const MAX_SIGNAL = 64;
/** After its end, for what a child still has in its pipes; a grandchild that keeps them open is not waited for. */
const DRAIN_MS = 200;
const DEFAULT_MAX_OUTPUT_BYTES = 1 << 20;

/** Node raises the soft limit of open files; children get the one that our launcher saw (DESIGN 3.2). */
const launcherSoft = Number(process.env['GANTRY_NOFILE_SOFT'] ?? Number.NaN);

/** A pipe whose ends close on exec. The caller owns both. */
export const pipe = (): { read: number; write: number } => pipe2(O_CLOEXEC);

/**
 * posix_spawn: no copy of our heap's page tables, whatever its size. The child begins with an empty signal mask, default dispositions
 * (Node ignores SIGPIPE), only the descriptors named, and a process group of its own. failedPrecondition when the program is not there.
 */
export function spawn(options: SpawnOptions): Child {
  ensureReactor();
  const [name = ''] = options.argv;
  const path = lookUp(name);
  const env = options.env ?? { PATH: process.env['PATH'] ?? '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin' };
  const strings = [...options.argv, ...Object.entries(env).flat()];
  if (strings.some((text) => text.includes('\0')))
    throw new ClassifiedError('invalidArgument', `run ${name}: an argument contains a NUL byte`);
  const actions = Buffer.alloc(ACTIONS_BYTES);
  const attr = Buffer.alloc(ATTR_BYTES);
  const copies: number[] = [];
  c.actionsInit(actions);
  c.attrInit(attr);
  try {
    fillActions(actions, options, copies);
    fillAttr(attr, options.setsid === true);
    const pid = withLauncherLimit(() => {
      const out = Buffer.alloc(4);
      const envp = Object.entries(env).map(([key, value]) => `${key}=${value}`);
      const errno = c.posixSpawn(out, path, actions, attr, [...options.argv, null], [...envp, null]) as number;
      if (errno !== 0) throw new SyscallError('posix_spawn', errno, path);
      return out.readInt32LE(0);
    });
    return childOf(pid);
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') {
      throw new ClassifiedError(
        'failedPrecondition',
        `run ${name}: ${options.cwd === undefined ? 'not found' : `not found, or no directory ${options.cwd}`}`,
        { cause: error },
      );
    }
    throw error;
  } finally {
    c.actionsDestroy(actions);
    c.attrDestroy(attr);
    for (const fd of copies) closeSync(fd);
  }
}

function childOf(pid: number): Child {
  const pidfd = openPidfd(pid);
  // An immediate exit may have been collected already; then nothing can be signalled and the number means nobody.
  const startTime = processRef(pid)?.startTime ?? '0';
  const { exited, isOver } = claimChild(pid, pidfd);
  return {
    pid,
    startTime,
    exited,
    kill(signal) {
      if (pidfd === undefined || isOver()) return;
      try {
        pidfdSendSignal(pidfd, signal);
      } catch (error) {
        if (errnoOf(error) !== 'ESRCH') throw error;
      }
    },
  };
}

function openPidfd(pid: number): number | undefined {
  try {
    return pidfdOpen(pid);
  } catch (error) {
    if (errnoOf(error) === 'ESRCH') return undefined;
    throw error;
  }
}

function lookUp(name: string): string {
  if (name.includes('/')) return name;
  for (const dir of (process.env['PATH'] ?? '').split(delimiter)) {
    const path = join(dir, name);
    try {
      accessSync(path, constants.X_OK);
      return path;
    } catch {
      continue;
    }
  }
  throw new ClassifiedError('failedPrecondition', `run ${name}: not found on PATH`);
}

function fillActions(actions: Buffer, options: SpawnOptions, copies: number[]): void {
  const streams = [options.stdin ?? 'null', options.stdout ?? 'null', options.stderr ?? 'null'] as const;
  const targets = new Map<number, number | 'null'>([...streams.entries(), ...(options.fds ?? [])]);
  for (const [target, source] of targets) {
    if (source === 'null') c.addOpen(actions, target, '/dev/null', target === 0 ? constants.O_RDONLY : constants.O_WRONLY, 0);
    else {
      const copy = dupAbove(source, LEAST_SOURCE_FD);
      copies.push(copy);
      c.addDup2(actions, copy, target);
    }
  }
  const last = Math.max(...targets.keys());
  for (let fd = 3; fd < last; fd++) if (!targets.has(fd)) c.addClose(actions, fd);
  if (options.cwd !== undefined) c.addChdir(actions, options.cwd);
  c.addCloseFrom(actions, last + 1);
}

function fillAttr(attr: Buffer, setsid: boolean): void {
  const empty = Buffer.alloc(SIGSET_BYTES);
  const all = Buffer.alloc(SIGSET_BYTES);
  for (let number = 1; number <= MAX_SIGNAL; number++) {
    const bit = number - 1;
    // SIGKILL and SIGSTOP have no disposition to reset.
    if (number !== SIGKILL && number !== osConstants.signals.SIGSTOP) all[bit >> 3] = (all[bit >> 3] ?? 0) | (1 << (bit & 7));
  }
  c.attrMask(attr, empty);
  c.attrDefault(attr, all);
  c.attrFlags(attr, SETSIGDEF | SETSIGMASK | (setsid ? SETSID : SETPGROUP));
}

// The limit is taken at exec, so ours is lowered for the fraction of a millisecond that the synchronous call lasts. Descriptors above it stay
// open; another thread that opens one just then would fail, so nothing is lowered below what is in use by a wide margin.
function withLauncherLimit<T>(work: () => T): T {
  if (!Number.isInteger(launcherSoft) || launcherSoft < 1) return work();
  const own = getNofile();
  if (own.soft <= launcherSoft) return work();
  setNofile({ soft: launcherSoft, hard: own.hard });
  try {
    return work();
  } finally {
    setNofile(own);
  }
}

/**
 * Runs a program to its end. A non-zero exit is a result, not an error. When the op ends first, the child's process group gets SIGKILL and the error is
 * deadlineExceeded or cancelled.
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
  if (input !== undefined) feed(input.write, options.input ?? '');
  const maxBytes = options.maxOutputBytes ?? DEFAULT_MAX_OUTPUT_BYTES;
  const stdout = collect(out.read, maxBytes);
  const stderr = collect(err.read, maxBytes);
  const onAbort = (): void => killGroup(child);
  op.signal.addEventListener('abort', onAbort, { once: true });
  try {
    const status = await child.exited;
    await Promise.race([Promise.all([stdout.ended, stderr.ended]), sleep(DRAIN_MS)]);
    if (op.signal.aborted) throwIfOver(op);
    return { ...status, stdout: stdout.bytes(), stderr: stderr.bytes(), truncated: stdout.truncated() || stderr.truncated() };
  } finally {
    op.signal.removeEventListener('abort', onAbort);
    stdout.close();
    stderr.close();
  }
}

// The group is the child's own, made at its start; the child itself is reached through its pidfd and can't have been recycled before it is collected.
function killGroup(child: Child): void {
  try {
    if (processRef(child.pid)?.startTime === child.startTime) process.kill(-child.pid, 'SIGKILL');
  } catch (error) {
    if (errnoOf(error) !== 'ESRCH') throw error;
  }
  child.kill(SIGKILL);
}

function feed(fd: number, input: string | Uint8Array): void {
  const socket = new Socket({ fd, readable: false, writable: true });
  // The child may end without reading all of it; its exit code tells.
  socket.on('error', () => undefined);
  socket.end(input);
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
