import type { ServerOptions, WebSocket } from 'ws';
import { WebSocketServer } from 'ws';
import { ClassifiedError } from '../../base/errors.ts';
import { HttpRefusal } from '../upgrade.ts';
import type { Upgrade } from '../upgrade.ts';

/**
 * Switches the client to a WebSocket (RFC 6455) with the first of its subprotocols that is among `protocols`, and returns which; the empty name where the
 * client asks for none and `protocols` has it. Refuses with 400 what is no proper request and with 403 when no subprotocol is common. Who listens to the
 * WebSocket must begin at once: what came behind the request is told in the next tick, before any promise.
 */
export function switchToWebSocket(upgrade: Upgrade, protocols: readonly string[]): { ws: WebSocket; protocol: string } {
  const { request, socket, head, limits } = upgrade;
  const names = (request.headers['sec-websocket-protocol'] ?? '').split(',').map((name) => name.trim());
  const protocol = names.find((name) => protocols.includes(name));
  if (protocol === undefined)
    throw new HttpRefusal(
      403,
      `unable to upgrade: client supports ${names.join(', ') || 'no subprotocol'}, server accepts ${protocols.join(', ')}`,
    );
  // `closeTimeout` is missing in the types: how long ws waits for the client's own close before it destroys the connection.
  const options = { maxPayload: limits.maxMessageBytes, closeTimeout: limits.lingerMs } as ServerOptions;
  const server = new WebSocketServer({ ...options, noServer: true, clientTracking: false, perMessageDeflate: false });
  // ws would refuse the names of client-go's tunnels: a slash does not belong there (RFC 6455 section 4.1).
  delete request.headers['sec-websocket-protocol'];
  if (protocol !== '') server.on('headers', (headers) => headers.push(`Sec-WebSocket-Protocol: ${protocol}`));
  let ws: WebSocket | undefined;
  let refusal = 'the connection is closed';
  server.on('wsClientError', (error) => (refusal = error.message));
  server.handleUpgrade(request, socket, head, (made) => (ws = made));
  if (ws === undefined) throw new ClassifiedError('invalidArgument', `unable to upgrade: ${refusal}`);
  ws.on('error', () => {});
  return { ws, protocol };
}
