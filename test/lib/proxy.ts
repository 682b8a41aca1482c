import { createServer, request as ask } from 'node:http';
import type { IncomingMessage, ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';

/** A plain-HTTP proxy in front of one registry that notes what it is asked, and may answer by itself or change what passes. */
export interface Proxy extends AsyncDisposable {
  /** host:port. */
  readonly host: string;
  readonly requests: Array<{ readonly path: string; readonly headers: IncomingMessage['headers'] }>;
}

export interface ProxyOptions {
  /** True: it has answered itself. */
  readonly answer?: (request: IncomingMessage, response: ServerResponse) => boolean;
  /** Changes a body as it comes from the registry; the headers stay. */
  readonly alter?: (path: string, body: Buffer) => Buffer;
  /** Taken from the front of the path before the registry is asked. */
  readonly prefix?: string;
}

/** `target`: host:port of the registry. */
export async function startProxy(target: string, options: ProxyOptions = {}): Promise<Proxy> {
  const requests: Array<{ path: string; headers: IncomingMessage['headers'] }> = [];
  const server = createServer((request, response) => {
    const path = request.url ?? '/';
    requests.push({ path, headers: request.headers });
    if (options.answer?.(request, response) === true) return;
    const inner = options.prefix !== undefined && path.startsWith(options.prefix) ? path.slice(options.prefix.length) : path;
    const headers = { ...request.headers, host: target };
    const forwarded = ask(`http://${target}${inner}`, { method: request.method ?? 'GET', headers }, (answer) => {
      response.writeHead(answer.statusCode ?? 502, answer.headers);
      if (options.alter === undefined) return void answer.pipe(response);
      const chunks: Buffer[] = [];
      answer.on('data', (chunk: Buffer) => chunks.push(chunk));
      answer.on('end', () => {
        const whole = Buffer.concat(chunks);
        const altered = options.alter?.(path, whole) ?? whole;
        // Less than was announced: the connection breaks, as it would.
        if (altered.length < whole.length) response.write(altered, () => response.destroy());
        else response.end(altered);
      });
    });
    forwarded.on('error', () => response.destroy());
    request.pipe(forwarded);
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  return {
    host: `127.0.0.1:${(server.address() as AddressInfo).port}`,
    requests,
    async [Symbol.asyncDispose]() {
      server.closeAllConnections();
      await new Promise<void>((resolve) => server.close(() => resolve()));
    },
  };
}
