import { closeSync, openSync } from 'node:fs';
import { basename, dirname } from 'node:path';
import { watchFd } from './reactor.ts';
import { errnoOf } from '../base/errors.ts';
import {
  AF_UNIX,
  connectUnix,
  dupAbove,
  O_DIRECTORY,
  O_NONBLOCK,
  O_PATH,
  receive,
  sendPacket,
  shutdownWrite,
  SOCK_SEQPACKET,
  socket,
} from './syscalls.ts';

/** conmon's packets are a stream's number and up to 8 KiB of it; a longer packet would be cut. */
const PACKET_BYTES = 32 * 1024;
/** Then others get their turn. */
const PACKETS_PER_TURN = 64;

export interface SeqpacketHandlers {
  /** One packet, the handler's own to keep. */
  readonly onPacket: (packet: Buffer) => void;
  /** Once: the peer has closed, or the error that ended it. Not after `close`. */
  readonly onEnd: (error: unknown) => void;
}

export interface Seqpacket {
  /** One packet. The error has the errno: EAGAIN when the peer does not keep up, EPIPE when it is gone, EBADF after `close`. */
  send(packet: Uint8Array): void;
  /** Calls back once when `send` may succeed again; not after `close`. One at a time. */
  whenWritable(onWritable: () => void): void;
  /** The peer reads an end; its packets still come. */
  endWrites(): void;
  close(): void;
}

/**
 * A client of a SOCK_SEQPACKET socket, which node:net can't open: conmon's attach socket (DESIGN 3.4). It is always drained, because a reader that stalls
 * stops the container: who can't keep up with `onPacket` bounds its buffer and gives up. The error of a failed connect has the errno.
 */
export function connectSeqpacket(path: string, { onPacket, onEnd }: SeqpacketHandlers): Seqpacket {
  let fd = socket(AF_UNIX, SOCK_SEQPACKET | O_NONBLOCK);
  let unwatch: () => void = () => undefined;
  /** For writes: the reactor watches a descriptor for one thing at a time. */
  let writeFd = CLOSED;
  let unwatchWrite: () => void = () => undefined;
  const close = (): void => {
    if (fd < 0) return;
    unwatch();
    unwatchWrite();
    closeSync(fd);
    if (writeFd >= 0) closeSync(writeFd);
    // The number will be somebody else's.
    fd = CLOSED;
  };
  const end = (error?: unknown): void => {
    if (fd < 0) return;
    close();
    onEnd(error);
  };
  const drain = (): void => {
    try {
      for (let count = 0; fd >= 0 && count < PACKETS_PER_TURN; count++) {
        const packet = receivePacket(fd);
        if (packet === undefined) break;
        if (packet.length === 0) return end();
        onPacket(packet);
      }
      if (fd >= 0) unwatch = watchFd(fd, drain);
    } catch (error) {
      end(error);
    }
  };
  try {
    connectBelow(fd, path);
    unwatch = watchFd(fd, drain);
  } catch (error) {
    close();
    throw error;
  }
  return {
    send: (packet) => void sendPacket(fd, packet),
    whenWritable(onWritable) {
      if (fd < 0) return;
      if (writeFd < 0) writeFd = dupAbove(fd, 3);
      unwatchWrite = watchFd(writeFd, onWritable, 'writable');
    },
    endWrites() {
      if (fd >= 0) shutdownWrite(fd);
    },
    close,
  };
}

const CLOSED = -1;

/** Through its directory: an address holds 107 bytes, and a container's id alone has 64. */
function connectBelow(fd: number, path: string): void {
  const dir = openSync(dirname(path), O_PATH | O_DIRECTORY);
  try {
    connectUnix(fd, `/proc/self/fd/${dir}/${basename(path)}`);
  } finally {
    closeSync(dir);
  }
}

function receivePacket(fd: number): Buffer | undefined {
  const packet = Buffer.allocUnsafe(PACKET_BYTES);
  const sizeBytes = receiveAll(fd, packet);
  return sizeBytes === undefined ? undefined : Buffer.from(packet.subarray(0, sizeBytes));
}

/** A peer that closes with packets of ours unread makes one receive fail; what it sent before comes after that. */
function receiveAll(fd: number, packet: Buffer): number | undefined {
  try {
    return receive(fd, packet);
  } catch (error) {
    if (errnoOf(error) !== 'ECONNRESET') throw error;
    return receive(fd, packet);
  }
}
