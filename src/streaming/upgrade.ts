import type { IncomingMessage } from 'node:http';
import type { Duplex } from 'node:stream';
import type { Logger } from '../base/log.ts';
import { messageOf } from '../base/errors.ts';
import { STATUS_CODES } from '../base/node-http.ts';
import type { StreamingLimits } from './limits.ts';
import { httpStatus } from './status.ts';

/** A client's HTTP request to switch protocols, with a good token. */
export interface Upgrade {
  readonly request: IncomingMessage;
  readonly socket: Duplex;
  /** What the client sent behind its request. */
  readonly head: Buffer;
  readonly limits: StreamingLimits;
  readonly log: Logger;
  /** Aborts when the server closes, or by `abort`: everything of the session goes with it. */
  readonly signal: AbortSignal;
  readonly abort: (reason: Error) => void;
}

/** A refusal with its own HTTP headers or status; other errors get their kind's status. */
export class HttpRefusal extends Error {
  readonly status: number;
  readonly headers: readonly string[];

  constructor(status: number, message: string, headers: readonly string[] = []) {
    super(message);
    this.status = status;
    this.headers = headers;
  }
}

/** Answers on a socket that was not switched yet, and closes it. */
export function refuse(socket: Duplex, error: unknown): void {
  const status = error instanceof HttpRefusal ? error.status : httpStatus(error);
  const body = `${messageOf(error)}\n`;
  const extra = error instanceof HttpRefusal ? error.headers : [];
  const head = [`HTTP/1.1 ${status} ${STATUS_CODES[status] ?? 'Error'}`, 'Connection: close', 'Content-Type: text/plain; charset=utf-8'];
  const lines = [...head, `Content-Length: ${Buffer.byteLength(body)}`, ...extra, '', body];
  socket.on('error', () => {});
  // A client that sends on would get a reset before it has read the answer.
  socket.resume();
  socket.end(lines.join('\r\n'));
  const timer = setTimeout(() => socket.destroy(), 1000).unref();
  socket.once('close', () => clearTimeout(timer));
}

export const isWebSocket = ({ headers }: IncomingMessage): boolean => headers.upgrade?.toLowerCase() === 'websocket';
