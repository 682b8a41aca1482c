import { anySignal } from '../base/any-signal.ts';
import { pipeline } from 'node:stream/promises';
import type { Duplex } from 'node:stream';
import { ClassifiedError, messageOf } from '../base/errors.ts';
import type { ClientStream } from './client-stream.ts';
import { forwardOverSpdy } from './spdy/forward.ts';
import { switchToSpdy } from './spdy/handshake.ts';
import type { StreamRuntime } from './stream-runtime.ts';
import type { Upgrade } from './upgrade.ts';
import { isWebSocket } from './upgrade.ts';
import { forwardOverChannels } from './websocket/forward.ts';
import { switchToWebSocket } from './websocket/handshake.ts';
import { tunnel } from './websocket/tunnel.ts';

export interface PortForwardRequest {
  readonly podSandboxId: string;
  /** The only ones that may be asked for; none: any. */
  readonly ports: readonly number[];
}

const SPDY_PROTOCOL = 'portforward.k8s.io';
const TUNNEL_PROTOCOL = `SPDY/3.1+${SPDY_PROTOCOL}`;
const CHANNEL_PROTOCOLS = ['v4.channel.k8s.io', 'v4.base64.channel.k8s.io', ''];

/** One port-forward session: many connections into the pod over one of the client's. */
export async function servePortForward(upgrade: Upgrade, runtime: StreamRuntime, request: PortForwardRequest): Promise<void> {
  const { podSandboxId } = request;
  const forward = async (port: number, data: ClientStream): Promise<string | undefined> => {
    try {
      const connection = await connect(upgrade.signal, runtime, podSandboxId, port, data);
      await join(data, connection);
      return undefined;
    } catch (error) {
      if (!data.destroyed) upgrade.log.info({ sandbox: podSandboxId, port, err: messageOf(error) }, 'port forwarding failed');
      return `forward port ${port} to pod sandbox ${podSandboxId}: ${messageOf(error)}`;
    }
  };
  const session = { upgrade, ports: request.ports, forward };
  if (!isWebSocket(upgrade.request)) {
    switchToSpdy(upgrade, [SPDY_PROTOCOL]);
    return forwardOverSpdy(upgrade.socket, session);
  }
  const { ws, protocol } = switchToWebSocket(upgrade, [TUNNEL_PROTOCOL, ...CHANNEL_PROTOCOLS]);
  if (protocol === TUNNEL_PROTOCOL) return forwardOverSpdy(tunnel(ws, upgrade.limits), session);
  return forwardOverChannels(ws, protocol, session);
}

/** Gives up when the client does. */
async function connect(signal: AbortSignal, runtime: StreamRuntime, podSandboxId: string, port: number, data: Duplex): Promise<Duplex> {
  const given = new AbortController();
  const giveUp = (): void => given.abort(new ClassifiedError('cancelled', 'the client closed the stream'));
  data.once('close', giveUp);
  try {
    const connection = await runtime.connect(anySignal([signal, given.signal]), podSandboxId, port);
    connection.on('error', () => {});
    if (data.destroyed) connection.destroy();
    return connection;
  } finally {
    data.off('close', giveUp);
  }
}

/**
 * Copies both ways until both sides have ended; each half-close is passed on. When one side breaks, so does the other, and nothing is said: kubectl takes
 * any word on the error stream as the end of all of its connections.
 */
async function join(data: Duplex, connection: Duplex): Promise<void> {
  const copies = [pipeline(data, connection), pipeline(connection, data)];
  try {
    await Promise.all(copies);
  } catch {
    data.destroy();
    connection.destroy();
    await Promise.allSettled(copies);
  }
}
