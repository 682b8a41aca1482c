import { createServer } from 'node:http';
import type { RequestListener, Server } from 'node:http';
import { createServer as createHttpsServer } from 'node:https';
import type { Server as HttpsServer } from 'node:https';
import { createServer as createTcpServer } from 'node:net';
import type { AddressInfo, Server as TcpServer, Socket } from 'node:net';

/** HTTP servers on loopback, for one test. */
export class HttpServers {
  readonly all: Array<Server | HttpsServer> = [];
  readonly #raw: Array<() => void> = [];

  /** Its host and port. `tls`: PEM. */
  async start(listener: RequestListener, tls?: { cert: Buffer; key: Buffer }): Promise<string> {
    const server = tls === undefined ? createServer(listener) : createHttpsServer(tls, listener);
    this.all.push(server);
    return await listening(server);
  }

  /** What it says when the first bytes have come need not be HTTP. `open`: how many connections there are. */
  async startRaw(answer: (socket: Socket) => void): Promise<{ host: string; open: () => number }> {
    const sockets = new Set<Socket>();
    const server = createTcpServer((socket) => {
      sockets.add(socket);
      socket.on('error', () => undefined);
      socket.on('close', () => sockets.delete(socket));
      socket.once('data', () => answer(socket));
    });
    this.#raw.push(() => {
      for (const socket of sockets) socket.destroy();
      server.close();
    });
    return { host: await listening(server), open: () => sockets.size };
  }

  end(): void {
    for (const server of this.all.splice(0)) {
      server.closeAllConnections();
      server.close();
    }
    for (const end of this.#raw.splice(0)) end();
  }
}

async function listening(server: TcpServer): Promise<string> {
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  return `127.0.0.1:${(server.address() as AddressInfo).port}`;
}
