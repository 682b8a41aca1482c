import { constants } from 'node:os';
import koffi from 'koffi';

/**
 * The system calls that Node lacks, by FFI. Each throws an error with Node's shape (`code` is the errno's name); none blocks unless its
 * comment says so. Numbers that differ between architectures are chosen once, here.
 */
const libc = koffi.load('libc.so.6');
const ARM64 = process.arch === 'arm64';

// Of two names for a number the first in the alphabet counts, as in Node's own errors: EAGAIN, not EWOULDBLOCK.
const ERRNO_NAMES: ReadonlyMap<number, string> = new Map(
  Object.entries(constants.errno)
    .sort(([a], [b]) => (a < b ? 1 : -1))
    .map(([name, number]) => [number, name]),
);

export class SyscallError extends Error {
  readonly code: string;
  readonly errno: number;

  constructor(call: string, errno: number, detail: string) {
    const code = ERRNO_NAMES.get(errno) ?? `errno ${errno}`;
    super(`${call}${detail === '' ? '' : ` ${detail}`}: ${code}`);
    this.code = code;
    this.errno = errno;
  }
}

export function check(result: number, call: string, detail = ''): number {
  if (result < 0) throw new SyscallError(call, koffi.errno(), detail);
  return result;
}

/** On a thread of libuv's pool: for what may wait for a disk. `args` have to be kept by the caller until it resolves. */
const apart = (call: ReturnType<typeof libc.func>, name: string, ...args: unknown[]): Promise<number> =>
  new Promise((resolve, reject) => {
    call.async(...args, (error: Error | null, result: number) => {
      if (error !== null) return reject(error);
      // koffi brings the thread's errno along, for as long as this callback runs.
      if (result < 0) reject(new SyscallError(name, koffi.errno(), ''));
      else resolve(result);
    });
  });

const c = {
  mount: libc.func('int mount(const char *source, const char *target, const char *type, unsigned long flags, const char *data)'),
  umount2: libc.func('int umount2(const char *target, int flags)'),
  unshare: libc.func('int unshare(int flags)'),
  setns: libc.func('int setns(int fd, int type)'),
  sethostname: libc.func('int sethostname(const char *name, size_t length)'),
  syscall1: libc.func('long syscall(long number, int a, unsigned int b)'),
  pidfdSendSignal: libc.func('syscall', 'long', ['long', 'int', 'int', 'void *', 'unsigned int']),
  openat2: libc.func('syscall', 'long', ['long', 'int', 'str', 'void *', 'size_t']),
  openTree: libc.func('syscall', 'long', ['long', 'int', 'str', 'unsigned int']),
  moveMount: libc.func('syscall', 'long', ['long', 'int', 'str', 'int', 'str', 'unsigned int']),
  setresuid: libc.func('syscall', 'long', ['long', 'int', 'int', 'int']),
  statx: libc.func('int statx(int dirfd, const char *path, int flags, unsigned int mask, void *out)'),
  mountSetattr: libc.func('syscall', 'long', ['long', 'int', 'str', 'unsigned int', 'void *', 'size_t']),
  quotactlFd: libc.func('syscall', 'long', ['long', 'int', 'unsigned int', 'unsigned int', 'void *']),
  waitid: libc.func('int waitid(int type, int id, void *info, int options)'),
  pipe2: libc.func('int pipe2(void *fds, int flags)'),
  fcntl: libc.func('int fcntl(int fd, int command, long argument)'),
  epollCreate1: libc.func('int epoll_create1(int flags)'),
  epollCtl: libc.func('int epoll_ctl(int epfd, int op, int fd, void *event)'),
  epollWait: libc.func('int epoll_wait(int epfd, void *events, int max, int timeout)'),
  eventfd: libc.func('int eventfd(unsigned int value, int flags)'),
  prctl: libc.func('int prctl(int option, unsigned long a, unsigned long b, unsigned long c, unsigned long d)'),
  prlimit: libc.func('int prlimit(int pid, int resource, void *next, void *old)'),
  flock: libc.func('int flock(int fd, int operation)'),
  socket: libc.func('int socket(int domain, int type, int protocol)'),
  connect: libc.func('int connect(int fd, void *address, unsigned int length)'),
  sendto: libc.func('long sendto(int fd, void *data, size_t length, int flags, void *address, unsigned int addressLength)'),
  recv: libc.func('long recv(int fd, void *buffer, size_t length, int flags)'),
  shutdown: libc.func('int shutdown(int fd, int how)'),
  ioctl: libc.func('int ioctl(int fd, unsigned long request, void *argument)'),
  mknod: libc.func('int mknod(const char *path, unsigned int mode, unsigned long device)'),
  lsetxattr: libc.func('int lsetxattr(const char *path, const char *name, void *value, size_t size, int flags)'),
  lgetxattr: libc.func('long lgetxattr(const char *path, const char *name, void *value, size_t size)'),
  syncfs: libc.func('int syncfs(int fd)'),
  mallocTrim: libc.func('int malloc_trim(size_t pad)'),
};

/** These are the same on every architecture. */
const SYS = {
  pidfdSendSignal: 424,
  openTree: 428,
  moveMount: 429,
  pidfdOpen: 434,
  openat2: 437,
  mountSetattr: 442,
  quotactlFd: 443,
} as const;
const SYS_SETRESUID = ARM64 ? 147 : 117;

export const O_CLOEXEC = 0o2000000;
export const O_PATH = 0o10000000;
export const O_DIRECTORY = ARM64 ? 0o40000 : 0o200000;
export const O_NONBLOCK = 0o4000;

// Mounts -----------------------------------------------------------------------------------------

const MS_PRIVATE = 1 << 18;

export const MS: Readonly<Record<string, number>> = {
  ro: 1,
  nosuid: 2,
  nodev: 4,
  noexec: 8,
  sync: 16,
  remount: 32,
  noatime: 1024,
  nodiratime: 2048,
  bind: 4096,
  move: 8192,
  rec: 16384,
  unbindable: 1 << 17,
  private: MS_PRIVATE,
  slave: 1 << 19,
  shared: 1 << 20,
  relatime: 1 << 21,
};
export const MNT_DETACH = 2;
export const UMOUNT_NOFOLLOW = 8;

export const mount2 = (source: string, target: string, options: { type: string; flags: number; data: string }): number =>
  check(c.mount(source, target, options.type, options.flags, options.data) as number, 'mount', `${source} on ${target}`);

export const umount2 = (target: string, flags: number): number => check(c.umount2(target, flags) as number, 'umount', target);

const AT_FDCWD = -100;
const AT_SYMLINK_NOFOLLOW = 0x100;
const AT_NO_AUTOMOUNT = 0x800;
const AT_STATX_DONT_SYNC = 0x4000;
const AT_RECURSIVE = 0x8000;
const STATX_BYTES = 256;
const STATX_ATTR_MOUNT_ROOT = 0x2000n;

/** Whether a mount stands on `path`, by statx(2) out of the cache; undefined before Linux 5.8, which can't say. */
export function isMountRoot(path: string): boolean | undefined {
  const out = Buffer.alloc(STATX_BYTES);
  const flags = AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT | AT_STATX_DONT_SYNC;
  check(c.statx(AT_FDCWD, path, flags, 0, out) as number, 'statx', path);
  // stx_attributes and stx_attributes_mask.
  const [attributes, known] = [out.readBigUInt64LE(8), out.readBigUInt64LE(56)];
  return (known & STATX_ATTR_MOUNT_ROOT) === 0n ? undefined : (attributes & STATX_ATTR_MOUNT_ROOT) !== 0n;
}
const MOUNT_ATTR_RDONLY = 1;

/** mount_setattr(2), Linux 5.12: read-only, with every other attribute as it was. */
export function setReadOnly(target: string, recursive: boolean): void {
  const attr = Buffer.alloc(32);
  attr.writeBigUInt64LE(BigInt(MOUNT_ATTR_RDONLY), 0);
  const flags = recursive ? AT_RECURSIVE : 0;
  check(Number(c.mountSetattr(SYS.mountSetattr, AT_FDCWD, target, flags, attr, attr.length)), 'mount_setattr', target);
}

const AT_EMPTY_PATH = 0x1000;
const OPEN_TREE_CLONE = 1;
const MOVE_MOUNT_F_EMPTY_PATH = 4;
const MOUNT_ATTR_IDMAP = 0x00100000;

/** open_tree(2): a mount of `path`, alone or with the mounts below it, that is attached nowhere; it ends with its descriptor. */
export const cloneMount = (path: string, recursive: boolean): number =>
  check(Number(c.openTree(SYS.openTree, AT_FDCWD, path, OPEN_TREE_CLONE | O_CLOEXEC | (recursive ? AT_RECURSIVE : 0))), 'open_tree', path);

/**
 * A detached mount, or all of it and below, is read-only and its owners are seen through a user namespace from now on. It is private: a clone of a shared
 * mount is its peer, and what is unmounted below one peer goes below all of them. EINVAL: its filesystem can't.
 */
export function idmapMount(mountFd: number, usernsFd: number, recursive: boolean): void {
  const attr = Buffer.alloc(32);
  attr.writeBigUInt64LE(BigInt(MOUNT_ATTR_IDMAP | MOUNT_ATTR_RDONLY), 0);
  attr.writeBigUInt64LE(BigInt(MS_PRIVATE), 16);
  attr.writeBigUInt64LE(BigInt(usernsFd), 24);
  const flags = AT_EMPTY_PATH | (recursive ? AT_RECURSIVE : 0);
  check(Number(c.mountSetattr(SYS.mountSetattr, mountFd, '', flags, attr, attr.length)), 'mount_setattr', 'idmap');
}

/** move_mount(2): attaches a detached mount; its descriptor goes on naming it. */
export const attachMount = (mountFd: number, target: string): number =>
  check(Number(c.moveMount(SYS.moveMount, mountFd, '', AT_FDCWD, target, MOVE_MOUNT_F_EMPTY_PATH)), 'move_mount', target);

// Namespaces (of the calling thread) ---------------------------------------------------------------

export const CLONE_NEWNS = 0x00020000;
export const CLONE_NEWUTS = 0x04000000;
export const CLONE_NEWIPC = 0x08000000;
export const CLONE_NEWNET = 0x40000000;

export const unshare = (flags: number): number => check(c.unshare(flags) as number, 'unshare');
export const setns = (fd: number, type: number): number => check(c.setns(fd, type) as number, 'setns');
export const sethostname = (name: string): number => check(c.sethostname(name, Buffer.byteLength(name)) as number, 'sethostname', name);

/**
 * The effective uid of the calling thread alone (libc's own call changes every thread's). Real and saved uid stay, so that root can come back, with the
 * capabilities that it has not meanwhile.
 */
export const setThreadEuid = (uid: number): number => check(Number(c.setresuid(SYS_SETRESUID, -1, uid, -1)), 'setresuid', String(uid));

// Processes ----------------------------------------------------------------------------------------

export const pidfdOpen = (pid: number): number => check(Number(c.syscall1(SYS.pidfdOpen, pid, 0)), 'pidfd_open', String(pid));
export const pidfdSendSignal = (pidfd: number, signal: number): number =>
  check(Number(c.pidfdSendSignal(SYS.pidfdSendSignal, pidfd, signal, null, 0)), 'pidfd_send_signal', String(signal));

const P_ALL = 0;
const P_PID = 1;
const WNOHANG = 1;
const WEXITED = 4;
const WNOWAIT = 0x01000000;
const SIGINFO_BYTES = 128;

/** Pid of an ended child, whichever thread or library started it or orphaned it; undefined when there is none. It stays a zombie until `collectChild`. */
export function endedChild(): number | undefined {
  const info = Buffer.alloc(SIGINFO_BYTES);
  if ((c.waitid(P_ALL, 0, info, WEXITED | WNOHANG | WNOWAIT) as number) < 0) return undefined;
  const pid = info.readInt32LE(16);
  return pid === 0 ? undefined : pid;
}

/** Collects an ended child; undefined when somebody else has. `exitCode` is 128 + signal when a signal ended it. */
export function collectChild(pid: number): { exitCode: number; signal: number } | undefined {
  const info = Buffer.alloc(SIGINFO_BYTES);
  if ((c.waitid(P_PID, pid, info, WEXITED | WNOHANG) as number) < 0 || info.readInt32LE(16) !== pid) return undefined;
  const CLD_EXITED = 1;
  const status = info.readInt32LE(24);
  return info.readInt32LE(8) === CLD_EXITED ? { exitCode: status, signal: 0 } : { exitCode: 128 + status, signal: status };
}

export const becomeSubreaper = (): number => check(c.prctl(36, 1, 0, 0, 0) as number, 'prctl', 'PR_SET_CHILD_SUBREAPER');

const RLIMIT_NOFILE = 7;

export function getNofile(pid = 0): { soft: number; hard: number } {
  const old = Buffer.alloc(16);
  check(c.prlimit(pid, RLIMIT_NOFILE, null, old) as number, 'prlimit', String(pid));
  return { soft: Number(old.readBigUInt64LE(0)), hard: Number(old.readBigUInt64LE(8)) };
}

export function setNofile(limit: { soft: number; hard: number }, pid = 0): void {
  const next = Buffer.alloc(16);
  next.writeBigUInt64LE(BigInt(limit.soft), 0);
  next.writeBigUInt64LE(BigInt(limit.hard), 8);
  check(c.prlimit(pid, RLIMIT_NOFILE, next, null) as number, 'prlimit', String(pid));
}

// Descriptors --------------------------------------------------------------------------------------

export function pipe2(flags: number): { read: number; write: number } {
  const fds = Buffer.alloc(8);
  check(c.pipe2(fds, flags) as number, 'pipe2');
  return { read: fds.readInt32LE(0), write: fds.readInt32LE(4) };
}

const F_DUPFD_CLOEXEC = 1030;
/** A copy of `fd` numbered `least` or higher, closed on exec. */
export const dupAbove = (fd: number, least: number): number => check(c.fcntl(fd, F_DUPFD_CLOEXEC, least) as number, 'fcntl', `dup ${fd}`);

const F_GETFL = 3;
const F_SETFL = 4;
/** Of the open file, and so for everybody who shares it. */
export const setNonblocking = (fd: number): number =>
  check(c.fcntl(fd, F_SETFL, (c.fcntl(fd, F_GETFL, 0) as number) | O_NONBLOCK) as number, 'fcntl');

export const epollCreate = (): number => check(c.epollCreate1(O_CLOEXEC) as number, 'epoll_create1');
export const eventfd = (): number => check(c.eventfd(0, O_CLOEXEC | O_NONBLOCK) as number, 'eventfd');
/** EPOLLIN, EPOLLOUT, EPOLLONESHOT. */
export const READABLE = 1;
export const WRITABLE = 4;
export const ONCE = 1 << 30;

// The kernel packs epoll_event on x86-64 only.
const EPOLL_EVENT_BYTES = ARM64 ? 16 : 12;
const EPOLL_DATA_AT = ARM64 ? 8 : 4;

export function epollAdd(epfd: number, fd: number, token: number, events = READABLE): void {
  const event = Buffer.alloc(EPOLL_EVENT_BYTES);
  event.writeUInt32LE(events, 0);
  event.writeBigUInt64LE(BigInt(token), EPOLL_DATA_AT);
  check(c.epollCtl(epfd, 1, fd, event) as number, 'epoll_ctl', `add ${fd}`);
}

/** Not being watched (any more) is no error. */
export const epollRemove = (epfd: number, fd: number): void => void c.epollCtl(epfd, 2, fd, null);

/** Blocks the calling thread up to `timeoutMs`: workers only. Tokens of what is ready. */
export function epollWait(epfd: number, timeoutMs: number): number[] {
  const MAX = 64;
  const events = Buffer.alloc(EPOLL_EVENT_BYTES * MAX);
  const count = c.epollWait(epfd, events, MAX, timeoutMs) as number;
  return Array.from({ length: Math.max(0, count) }, (_, i) => Number(events.readBigUInt64LE(i * EPOLL_EVENT_BYTES + EPOLL_DATA_AT)));
}

const LOCK_EX_NB = 2 | 4;
/** false when somebody else holds it. */
export function tryLock(fd: number): boolean {
  if ((c.flock(fd, LOCK_EX_NB) as number) === 0) return true;
  const errno = koffi.errno();
  if (errno === constants.errno.EAGAIN) return false;
  throw new SyscallError('flock', errno, '');
}

// Sockets ------------------------------------------------------------------------------------------

export const AF_UNIX = 1;
export const AF_INET = 2;
export const AF_INET6 = 10;
export const SOCK_STREAM = 1;
export const SOCK_DGRAM = 2;
export const SOCK_SEQPACKET = 5;

export const socket = (domain: number, type: number): number => check(c.socket(domain, type | O_CLOEXEC, 0) as number, 'socket');

/** sockaddr_un; a leading `@` means the abstract namespace. */
export function unixAddress(path: string): Buffer {
  const abstract = path.startsWith('@');
  const name = Buffer.from(abstract ? `\0${path.slice(1)}` : `${path}\0`);
  const address = Buffer.alloc(2 + name.length);
  address.writeUInt16LE(AF_UNIX, 0);
  name.copy(address, 2);
  return address;
}

export const connectUnix = (fd: number, path: string): number => {
  const address = unixAddress(path);
  return check(c.connect(fd, address, address.length) as number, 'connect', path);
};

const MSG_DONTWAIT = 0x40;
const MSG_NOSIGNAL = 0x4000;

/** EAGAIN when the receiver's queue is full. */
export const sendTo = (fd: number, data: Uint8Array, address: Buffer): number =>
  check(Number(c.sendto(fd, data, data.length, MSG_DONTWAIT | MSG_NOSIGNAL, address, address.length)), 'sendto');

/** On a connected socket. EAGAIN when the peer's queue is full, EPIPE when it is gone. */
export const sendPacket = (fd: number, data: Uint8Array): number =>
  check(Number(c.sendto(fd, data, data.length, MSG_DONTWAIT | MSG_NOSIGNAL, null, 0)), 'send');

/** One packet, cut to the buffer's length: its size, 0 at the end, undefined when nothing is there yet. */
export function receive(fd: number, buffer: Buffer): number | undefined {
  const size = Number(c.recv(fd, buffer, buffer.length, MSG_DONTWAIT));
  if (size < 0 && koffi.errno() === constants.errno.EAGAIN) return undefined;
  return check(size, 'recv');
}

const SHUT_WR = 1;
/** The peer reads an end; what it sends still arrives. */
export const shutdownWrite = (fd: number): number => check(c.shutdown(fd, SHUT_WR) as number, 'shutdown');

const TIOCSWINSZ = 0x5414;
/** Of a terminal, in characters; its foreground process gets SIGWINCH. */
export function setTerminalSize(fd: number, size: { width: number; height: number }): void {
  const winsize = Buffer.alloc(8);
  winsize.writeUInt16LE(size.height, 0);
  winsize.writeUInt16LE(size.width, 2);
  check(c.ioctl(fd, TIOCSWINSZ, winsize) as number, 'ioctl', 'TIOCSWINSZ');
}

const SIOCGIFFLAGS = 0x8913;
const SIOCSIFFLAGS = 0x8914;
const IFF_UP = 1;

/** Brings an interface of the calling thread's network namespace up. */
export function interfaceUp(name: string, socketFd: number): void {
  const request = Buffer.alloc(40);
  request.write(name, 0, 'latin1');
  check(c.ioctl(socketFd, SIOCGIFFLAGS, request) as number, 'ioctl', `flags of ${name}`);
  request.writeUInt16LE(request.readUInt16LE(16) | IFF_UP, 16);
  check(c.ioctl(socketFd, SIOCSIFFLAGS, request) as number, 'ioctl', `up ${name}`);
}

// Files --------------------------------------------------------------------------------------------

/** openat2(2), resolve flags. */
export const RESOLVE = { noMagicLinks: 0x02, noSymlinks: 0x04, beneath: 0x08, inRoot: 0x10 } as const;

/** Opens `path` below the directory `dirFd`; EAGAIN means that it was changed meanwhile: try again. */
export function openat2(dirFd: number, path: string, how: { flags: number; mode?: number; resolve: number }): number {
  const bytes = Buffer.alloc(24);
  bytes.writeBigUInt64LE(BigInt(how.flags | O_CLOEXEC), 0);
  bytes.writeBigUInt64LE(BigInt(how.mode ?? 0), 8);
  bytes.writeBigUInt64LE(BigInt(how.resolve), 16);
  return check(Number(c.openat2(SYS.openat2, dirFd, path, bytes, bytes.length)), 'openat2', path);
}

const S_IFIFO = 0o010000;
export const makeFifo = (path: string, mode: number): number => check(c.mknod(path, S_IFIFO | mode, 0) as number, 'mkfifo', path);

const S_IFCHR = 0o020000;
/** A 0/0 character device: a whiteout to overlayfs. */
export const makeWhiteout = (path: string): number => check(c.mknod(path, S_IFCHR, 0) as number, 'mknod', path);

export const setXattr = (path: string, name: string, value: Uint8Array): number =>
  check(c.lsetxattr(path, name, value, value.length, 0) as number, 'lsetxattr', `${name} of ${path}`);

/** undefined when the file has no such attribute. */
export function getXattr(path: string, name: string): Buffer | undefined {
  const value = Buffer.alloc(65536);
  const size = Number(c.lgetxattr(path, name, value, value.length));
  return size < 0 ? undefined : value.subarray(0, size);
}

export const syncfs = (fd: number): number => check(c.syncfs(fd) as number, 'syncfs');

/** What malloc holds free goes back to the system; 1 ms. */
export const mallocTrim = (): void => void c.mallocTrim(0);

// Project ids --------------------------------------------------------------------------------------

const FS_IOC_FSGETXATTR = 0x801c581f;
const FS_IOC_FSSETXATTR = 0x401c5820;
/** struct fsxattr: fsx_xflags, fsx_extsize, fsx_nextents, fsx_projid, and what is of no concern here. */
const FSXATTR_BYTES = 28;
const FS_XFLAG_PROJINHERIT = 0x200;

export interface Project {
  readonly id: number;
  /** Of a directory: what is made in it belongs to the same project, and nothing of another can be moved or linked into it (EXDEV). */
  readonly inherits: boolean;
}

/** Project of an open file; ENOTTY, EOPNOTSUPP: its filesystem has none. */
export async function getProject(fd: number): Promise<Project> {
  const attributes = await fsxattr(fd);
  return { id: attributes.readUInt32LE(12), inherits: (attributes.readUInt32LE(0) & FS_XFLAG_PROJINHERIT) !== 0 };
}

/** Its other attributes stay as they are. */
export async function setProject(fd: number, { id, inherits }: Project): Promise<void> {
  const attributes = await fsxattr(fd);
  const flags = attributes.readUInt32LE(0) & ~FS_XFLAG_PROJINHERIT;
  attributes.writeUInt32LE((flags | (inherits ? FS_XFLAG_PROJINHERIT : 0)) >>> 0, 0);
  attributes.writeUInt32LE(id, 12);
  await apart(c.ioctl, 'set project', fd, FS_IOC_FSSETXATTR, attributes);
}

async function fsxattr(fd: number): Promise<Buffer> {
  const attributes = Buffer.alloc(FSXATTR_BYTES);
  await apart(c.ioctl, 'get project', fd, FS_IOC_FSGETXATTR, attributes);
  return attributes;
}

const PRJQUOTA = 2;
const Q_GETQUOTA = 0x800007;
/** struct if_dqblk: dqb_curspace at 16, dqb_curinodes at 40. */
const IF_DQBLK_BYTES = 72;

/**
 * What the filesystem of `fd` counts for a project: bytes, with what is still to be written to the disk, and inodes. Linux 5.14, CAP_SYS_ADMIN. ESRCH, ENOSYS:
 * it counts nothing. ENOENT: it has never heard of that project (XFS).
 */
export async function projectQuota(fd: number, id: number): Promise<{ sizeBytes: number; inodes: number }> {
  const counted = Buffer.alloc(IF_DQBLK_BYTES);
  await apart(c.quotactlFd, 'quotactl', SYS.quotactlFd, fd, ((Q_GETQUOTA << 8) | PRJQUOTA) >>> 0, id, counted);
  return { sizeBytes: Number(counted.readBigUInt64LE(16)), inodes: Number(counted.readBigUInt64LE(40)) };
}

// Loop devices -----------------------------------------------------------------------------------

const LOOP_CTL_GET_FREE = 0x4c82;
const LOOP_CONFIGURE = 0x4c0a;
/** struct loop_config: fd, block_size, struct loop_info64 (232 bytes, its flags at 52), reserved. */
const LOOP_CONFIG_BYTES = 304;
const LOOP_INFO_AT = 8;
export const LO_FLAGS = { readOnly: 1, autoclear: 4, directIo: 16 } as const;

/** Number of a loop device that nobody uses at this moment. */
export const freeLoop = (controlFd: number): number => check(c.ioctl(controlFd, LOOP_CTL_GET_FREE, null) as number, 'ioctl', 'free loop');

/** Linux 5.8. Sectors of 512 bytes. */
export function configureLoop(fd: number, { file, flags }: { file: number; flags: number }): void {
  const config = Buffer.alloc(LOOP_CONFIG_BYTES);
  config.writeUInt32LE(file, 0);
  config.writeUInt32LE(512, 4);
  config.writeUInt32LE(flags, LOOP_INFO_AT + 52);
  check(c.ioctl(fd, LOOP_CONFIGURE, config) as number, 'ioctl', 'configure loop');
}
