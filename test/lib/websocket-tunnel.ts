import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import type { IncomingMessage } from 'node:http';
import { request } from 'node:http';
import type { Socket } from 'node:net';
import { Duplex } from 'node:stream';

/** One frame of a WebSocket client's, masked with zeros; lengths over 64 KiB are not needed. */
export function maskedFrame(opcode: number, payload: Buffer): Buffer {
  const { length } = payload;
  const size = length < 126 ? Buffer.of(0x80 | length) : Buffer.of(0x80 | 126, length >> 8, length & 255);
  return Buffer.concat([Buffer.of(0x80 | opcode), size, Buffer.alloc(4), payload]);
}

/** Opens a WebSocket and leaves the frames to the caller. */
export async function rawWebSocket(url: string, protocol: string): Promise<{ socket: Socket; response: IncomingMessage }> {
  const sent = request(url, {
    agent: false,
    headers: {
      Connection: 'Upgrade',
      Upgrade: 'websocket',
      'Sec-WebSocket-Version': 13,
      'Sec-WebSocket-Key': randomBytes(16).toString('base64'),
      'Sec-WebSocket-Protocol': protocol,
    },
  });
  sent.end();
  const [response, socket, head] = (await Promise.race([
    once(sent, 'upgrade'),
    once(sent, 'response').then(([refused]) => Promise.reject(new Error(`refused with ${(refused as IncomingMessage).statusCode}`))),
  ])) as [IncomingMessage, Socket, Buffer];
  socket.on('error', () => {});
  if (head.length > 0) socket.unshift(head);
  return { socket, response };
}

/** Binary messages of a WebSocket as one stream of bytes, like client-go's tunnel: `ws` as a client refuses subprotocols with a slash. */
export class WebSocketTunnel extends Duplex {
  readonly protocol: string;
  readonly #socket: Socket;
  #held = Buffer.alloc(0);

  static async dial(url: string, protocol: string): Promise<WebSocketTunnel> {
    const { socket, response } = await rawWebSocket(url, protocol);
    return new WebSocketTunnel(socket, String(response.headers['sec-websocket-protocol']));
  }

  constructor(socket: Socket, protocol: string) {
    super();
    this.#socket = socket;
    this.protocol = protocol;
    socket.on('data', (bytes: Buffer) => this.#receive(bytes));
    socket.on('close', () => this.destroy());
  }

  #receive(bytes: Buffer): void {
    let rest = Buffer.concat([this.#held, bytes]);
    for (;;) {
      const short = (rest[1] ?? 0) & 127;
      const header = short < 126 ? 2 : short === 126 ? 4 : 10;
      if (rest.length < header) break;
      const length = short < 126 ? short : short === 126 ? rest.readUInt16BE(2) : Number(rest.readBigUInt64BE(2));
      if (rest.length < header + length) break;
      const payload = rest.subarray(header, header + length);
      const opcode = (rest[0] ?? 0) & 15;
      if (opcode === 8) this.push(null);
      else if (length > 0 && !this.push(payload)) this.#socket.pause();
      rest = rest.subarray(header + length);
    }
    this.#held = Buffer.from(rest);
  }

  override _read(): void {
    this.#socket.resume();
  }

  override _write(chunk: Buffer, _encoding: BufferEncoding, done: (error?: Error | null) => void): void {
    const parts: Buffer[] = [];
    for (let at = 0; at < chunk.length; at += 50_000) parts.push(maskedFrame(2, chunk.subarray(at, at + 50_000)));
    this.#socket.write(Buffer.concat(parts), done);
  }

  override _destroy(error: Error | null, done: (error?: Error | null) => void): void {
    this.#socket.destroy();
    done(error);
  }
}
