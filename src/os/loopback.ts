import { closeSync } from 'node:fs';
import { Socket } from 'node:net';
import { ClassifiedError, errnoOf } from '../base/errors.ts';
import type { Op } from '../base/op.ts';
import { orOver, throwIfOver, within } from '../base/op.ts';
import { socketIn } from './namespaces.ts';
import { watchFd } from './reactor.ts';
import { connectLoopback, streamSocket, throwSocketError } from './sockets.ts';
import { AF_INET, AF_INET6 } from './syscalls.ts';

/** Loopback answers at once, or a firewall swallows the question. */
const CONNECT_TIMEOUT_MS = 10_000;
/** What a kernel says where nobody listens, or where the namespace has no IPv6. */
const REFUSED: ReadonlySet<string | undefined> = new Set(['ECONNREFUSED', 'EADDRNOTAVAIL', 'EAFNOSUPPORT', 'ENETUNREACH']);

/**
 * A TCP connection to `port` of 127.0.0.1, else of ::1, in the network namespace pinned at `netns` (undefined: ours). Either side may be closed first.
 * unavailable when nobody listens there.
 */
export async function connectToLoopback(op: Op, netns: string | undefined, port: number): Promise<Socket> {
  const limited = within(op, CONNECT_TIMEOUT_MS);
  for (const domain of [AF_INET, AF_INET6]) {
    throwIfOver(limited);
    try {
      const fd = netns === undefined ? streamSocket(domain) : await socketIn({ netns, domain });
      return await connected(limited, fd, { domain, port });
    } catch (error) {
      if (!REFUSED.has(errnoOf(error) ?? codeOf(error))) throw error;
    }
  }
  throw new ClassifiedError('unavailable', 'connection refused');
}

const codeOf = (error: unknown): string | undefined => {
  const code = error instanceof ClassifiedError ? error.detail?.['code'] : undefined;
  return typeof code === 'string' ? code : undefined;
};

/** Owns `fd`. */
async function connected(op: Op, fd: number, to: { domain: number; port: number }): Promise<Socket> {
  let unwatch: () => void = () => undefined;
  try {
    connectLoopback(fd, to.domain, to.port);
    await orOver(op, new Promise<void>((resolve) => (unwatch = watchFd(fd, resolve, 'writable'))));
    throwSocketError(fd);
  } catch (error) {
    unwatch();
    closeSync(fd);
    throw error;
  }
  return new Socket({ fd, readable: true, writable: true, allowHalfOpen: true });
}
