import { closeSync, constants } from 'node:fs';
import { constants as osConstants } from 'node:os';
import koffi from 'koffi';
import { dupAbove, getNofile, setNofile, SyscallError } from './syscalls.ts';

export interface PosixSpawn {
  readonly path: string;
  readonly argv: readonly string[];
  /** `NAME=value` */
  readonly envp: readonly string[];
  readonly cwd: string | undefined;
  /** Child's descriptor number -> ours, or /dev/null; 0, 1 and 2 are among them. Every other number is closed. */
  readonly fds: ReadonlyMap<number, number | 'null'>;
  /** A new session; else a new process group. */
  readonly setsid: boolean;
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
const MAX_SIGNAL = 64;

/** Node raises the soft limit of open files; children get the one that our launcher saw (DESIGN 3.2). */
const launcherSoft = Number(process.env['GANTRY_NOFILE_SOFT'] ?? Number.NaN);

/** Pid of the new process, which runs its program already. A SyscallError has the errno of the exec, of the chdir or of the fork. */
export function posixSpawn(request: PosixSpawn): number {
  const actions = Buffer.alloc(ACTIONS_BYTES);
  const attr = Buffer.alloc(ATTR_BYTES);
  const copies: number[] = [];
  c.actionsInit(actions);
  c.attrInit(attr);
  try {
    fillActions(actions, request, copies);
    fillAttr(attr, request.setsid);
    return withLauncherLimit(() => {
      const pid = Buffer.alloc(4);
      const errno = c.posixSpawn(pid, request.path, actions, attr, [...request.argv, null], [...request.envp, null]) as number;
      if (errno !== 0) throw new SyscallError('posix_spawn', errno, request.path);
      return pid.readInt32LE(0);
    });
  } finally {
    c.actionsDestroy(actions);
    c.attrDestroy(attr);
    for (const fd of copies) closeSync(fd);
  }
}

function fillActions(actions: Buffer, { fds, cwd }: PosixSpawn, copies: number[]): void {
  const last = Math.max(...fds.keys());
  for (const [target, source] of fds) {
    if (source === 'null') c.addOpen(actions, target, '/dev/null', target === 0 ? constants.O_RDONLY : constants.O_WRONLY, 0);
    else {
      const copy = dupAbove(source, Math.max(LEAST_SOURCE_FD, last + 1));
      copies.push(copy);
      c.addDup2(actions, copy, target);
    }
  }
  for (let fd = 3; fd < last; fd++) if (!fds.has(fd)) c.addClose(actions, fd);
  if (cwd !== undefined) c.addChdir(actions, cwd);
  c.addCloseFrom(actions, last + 1);
}

function fillAttr(attr: Buffer, setsid: boolean): void {
  const { SIGKILL, SIGSTOP } = osConstants.signals;
  const empty = Buffer.alloc(SIGSET_BYTES);
  const all = Buffer.alloc(SIGSET_BYTES);
  for (let number = 1; number <= MAX_SIGNAL; number++) {
    const bit = number - 1;
    // These two have no disposition to reset.
    if (number !== SIGKILL && number !== SIGSTOP) all[bit >> 3] = (all[bit >> 3] ?? 0) | (1 << (bit & 7));
  }
  c.attrMask(attr, empty);
  c.attrDefault(attr, all);
  c.attrFlags(attr, SETSIGDEF | SETSIGMASK | (setsid ? SETSID : SETPGROUP));
}

// A child inherits our limit at its fork and reads it at its first instruction, so ours is lowered for the fraction of a millisecond that the
// synchronous call lasts. Another thread that opens a file just then fails if fewer numbers than that are free: with half of them taken the child's
// limit is set afterwards instead. That races with a program that asks at its very start, which gets more than its share and no failure.
function withLauncherLimit(start: () => number): number {
  if (!Number.isInteger(launcherSoft) || launcherSoft < 1) return start();
  const own = getNofile();
  if (own.soft <= launcherSoft) return start();
  const lowered = { soft: launcherSoft, hard: own.hard };
  if (lowestFree() > launcherSoft / 2) {
    const pid = start();
    try {
      setNofile(lowered, pid);
    } catch {
      // It has ended and been collected.
    }
    return pid;
  }
  setNofile(lowered);
  try {
    return start();
  } finally {
    setNofile(own);
  }
}

function lowestFree(): number {
  const fd = dupAbove(0, 0);
  closeSync(fd);
  return fd;
}
