import type { Duplex } from 'node:stream';
import { createWebSocketStream } from 'ws';
import type { WebSocket } from 'ws';
import type { StreamingLimits } from '../limits.ts';

/** The bytes of a whole SPDY connection as the payload of binary messages, wherever they are cut: client-go's `SPDY/3.1+` subprotocols. */
export function tunnel(ws: WebSocket, limits: StreamingLimits): Duplex {
  // Answers to pings are not among what SPDY counts.
  ws.on('ping', () => {
    if (ws.bufferedAmount > limits.backlogBytes) ws.terminate();
  });
  return createWebSocketStream(ws);
}
