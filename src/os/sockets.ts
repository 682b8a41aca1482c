import { constants } from 'node:os';
import koffi from 'koffi';
import { AF_INET, AF_UNIX, check, O_CLOEXEC, O_NONBLOCK, SOCK_STREAM, SyscallError, unixAddress } from './syscalls.ts';

/** Calls on stream sockets that node:net can't make: a descriptor sent by SCM_RIGHTS, a connection of a socket that was made elsewhere. None blocks. */
const libc = koffi.load('libc.so.6');
koffi.struct('gantry_iovec', { base: 'void *', length: 'size_t' });
koffi.struct('gantry_msghdr', {
  name: 'void *',
  nameLength: 'uint32_t',
  iov: 'gantry_iovec *',
  iovLength: 'size_t',
  control: 'void *',
  controlLength: 'size_t',
  flags: 'int',
});
const c = {
  socket: libc.func('int socket(int domain, int type, int protocol)'),
  bind: libc.func('int bind(int fd, void *address, unsigned int length)'),
  listen: libc.func('int listen(int fd, int backlog)'),
  accept4: libc.func('int accept4(int fd, void *address, void *length, int flags)'),
  connect: libc.func('int connect(int fd, void *address, unsigned int length)'),
  getsockopt: libc.func('int getsockopt(int fd, int level, int option, void *value, void *length)'),
  recvmsg: libc.func('long recvmsg(int fd, gantry_msghdr *message, int flags)'),
};

/** Of the calling thread's network namespace, which it keeps. */
export const streamSocket = (domain: number): number =>
  check(c.socket(domain, SOCK_STREAM | O_CLOEXEC | O_NONBLOCK, 0) as number, 'socket');

/** A listening unix socket at `path`, which must not exist. */
export function listenUnix(fd: number, path: string): void {
  const address = unixAddress(path);
  check(c.bind(fd, address, address.length) as number, 'bind', path);
  check(c.listen(fd, 1) as number, 'listen', path);
}

/** undefined when nobody has come yet. */
export function accept(fd: number): number | undefined {
  const accepted = c.accept4(fd, null, null, O_CLOEXEC | O_NONBLOCK) as number;
  if (accepted < 0 && koffi.errno() === constants.errno.EAGAIN) return undefined;
  return check(accepted, 'accept');
}

const MSG_DONTWAIT = 0x40;
const MSG_CMSG_CLOEXEC = 0x40000000;
const SOL_SOCKET = 1;
const SCM_RIGHTS = 1;
/** CMSG_SPACE of one descriptor on 64-bit machines; the kernel closes what has no room. */
const CONTROL_BYTES = 24;
const CMSG_LENGTH = 20;

/** The descriptor that the next message carries: 'none' when it carries none or the peer has closed, undefined when there is no message yet. */
export function receiveFd(fd: number): number | 'none' | undefined {
  const control = Buffer.alloc(CONTROL_BYTES);
  const data = Buffer.alloc(4096);
  const message = {
    name: null,
    nameLength: 0,
    iov: [{ base: data, length: data.length }],
    iovLength: 1,
    control,
    controlLength: control.length,
    flags: 0,
  };
  const size = Number(c.recvmsg(fd, message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC));
  if (size < 0 && koffi.errno() === constants.errno.EAGAIN) return undefined;
  check(size, 'recvmsg');
  const isFd =
    control.readBigUInt64LE(0) === BigInt(CMSG_LENGTH) && control.readInt32LE(8) === SOL_SOCKET && control.readInt32LE(12) === SCM_RIGHTS;
  return isFd ? control.readInt32LE(16) : 'none';
}

/** sockaddr_in of 127.0.0.1 or sockaddr_in6 of ::1. */
function loopback(domain: number, port: number): Buffer {
  const address = Buffer.alloc(domain === AF_INET ? 16 : 28);
  address.writeUInt16LE(domain, 0);
  address.writeUInt16BE(port, 2);
  if (domain === AF_INET) address.set([127, 0, 0, 1], 4);
  else address[23] = 1;
  return address;
}

/** Begins to connect; the socket becomes writable when that has succeeded or failed, and `socketError` tells which. Some failures are told at once. */
export function connectLoopback(fd: number, domain: number, port: number): void {
  const address = loopback(domain, port);
  if ((c.connect(fd, address, address.length) as number) === 0) return;
  const errno = koffi.errno();
  if (errno !== constants.errno.EINPROGRESS) throw new SyscallError('connect', errno, '');
}

const SO_ERROR = 4;

/** Throws the error that the socket has. */
export function throwSocketError(fd: number): void {
  const value = Buffer.alloc(4);
  const length = Buffer.alloc(4);
  length.writeUInt32LE(value.length);
  check(c.getsockopt(fd, SOL_SOCKET, SO_ERROR, value, length) as number, 'getsockopt');
  const errno = value.readInt32LE(0);
  if (errno !== 0) throw new SyscallError('connect', errno, '');
}

export const unixStream = (): number => streamSocket(AF_UNIX);
