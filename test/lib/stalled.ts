import type { ClientHttp2Session, ClientHttp2Stream } from 'node:http2';
import { connect } from 'node:http2';
import { connect as connectSocket } from 'node:net';

/**
 * A call of a server-streaming RPC by a client that doesn't read: only the 64 KiB of HTTP/2's first window come to it (grpc-js reads ahead without
 * bound). The request is the empty message.
 */
export class StalledCall implements Disposable {
  readonly #session: ClientHttp2Session;
  readonly #stream: ClientHttp2Stream;

  constructor(socket: string, rpc: string) {
    this.#session = connect('http://localhost', { createConnection: () => connectSocket(socket) });
    this.#session.on('error', () => undefined);
    this.#stream = this.#session.request({
      ':method': 'POST',
      ':path': `/runtime.v1.RuntimeService/${rpc}`,
      'content-type': 'application/grpc',
      te: 'trailers',
    });
    this.#stream.on('error', () => undefined);
    // Not compressed, length 0.
    this.#stream.end(Buffer.alloc(5));
  }

  /** Reads all that comes: how many messages, and the status at the end. */
  async drain(): Promise<{ messages: number; status: number; message: string }> {
    const chunks: Buffer[] = [];
    const trailers = new Promise<{ status: number; message: string }>((resolve) => {
      const from = (headers: { 'grpc-status'?: string | string[]; 'grpc-message'?: string | string[] }): void => {
        if (headers['grpc-status'] === undefined) return;
        resolve({ status: Number(headers['grpc-status']), message: decodeURIComponent(String(headers['grpc-message'] ?? '')) });
      };
      this.#stream.on('response', from);
      this.#stream.on('trailers', from);
    });
    this.#stream.on('data', (chunk: Buffer) => chunks.push(chunk));
    const end = await trailers;
    const bytes = Buffer.concat(chunks);
    let messages = 0;
    for (let at = 0; at + 5 <= bytes.length; at += 5 + bytes.readUInt32BE(at + 1)) messages++;
    return { messages, ...end };
  }

  [Symbol.dispose](): void {
    this.#stream.close();
    this.#session.destroy();
  }
}
