import { createServer } from 'node:http';
import type { RequestListener, Server } from 'node:http';
import type { AddressInfo } from 'node:net';

/** HTTP servers on loopback, for one test. */
export class HttpServers {
  readonly all: Server[] = [];

  /** Its host and port. */
  async start(listener: RequestListener): Promise<string> {
    const server = createServer(listener);
    this.all.push(server);
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    return `127.0.0.1:${(server.address() as AddressInfo).port}`;
  }

  end(): void {
    for (const server of this.all.splice(0)) {
      server.closeAllConnections();
      server.close();
    }
  }
}
