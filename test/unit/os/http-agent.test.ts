import { expect } from 'chai';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import type { IncomingMessage } from 'node:http';
import { setTimeout as sleep } from 'node:timers/promises';
import { request } from '../../../src/base/node-http.ts';
import { OneBufferAgent } from '../../../src/os/http-agent.ts';
import { HttpServers } from '../../lib/http-servers.ts';

const MIB = 1 << 20;

describe('os/http-agent', () => {
  const body = randomBytes(20 * MIB);
  const servers = new HttpServers();
  let agent: OneBufferAgent;
  let host: string;
  let connections: number;

  beforeEach(async () => {
    agent = new OneBufferAgent({ keepAlive: true, maxSockets: 1 });
    host = await servers.start((_, response) => response.end(body));
    connections = 0;
    servers.all[0]?.on('connection', () => connections++);
  });
  afterEach(() => {
    agent.destroy();
    servers.end();
  });

  async function get(): Promise<IncomingMessage> {
    const asked = request(`http://${host}/`, { agent }).end();
    const [response] = (await once(asked, 'response')) as [IncomingMessage];
    return response;
  }

  /** What came is looked at when all has come: had a chunk been of the one buffer, it would be another by then. */
  async function bodyOf(response: IncomingMessage, { pauseMs = 0 } = {}): Promise<Buffer> {
    const chunks: Buffer[] = [];
    for await (const chunk of response as AsyncIterable<Buffer>) {
      if (pauseMs > 0 && chunks.length % 20 === 0) await sleep(pauseMs);
      chunks.push(chunk);
    }
    return Buffer.concat(chunks);
  }

  it('hands out chunks that stay as they are', async () => {
    expect((await bodyOf(await get())).equals(body)).to.equal(true);
  });

  it('keeps what comes before anybody listens', async () => {
    const response = await get();
    await sleep(100);
    expect((await bodyOf(response)).equals(body)).to.equal(true);
  });

  it('waits for slow readers, and uses a connection again', async () => {
    for (let n = 0; n < 3; n++) {
      expect((await bodyOf(await get(), { pauseMs: 5 })).equals(body)).to.equal(true);
      // The connection is free after this turn.
      await sleep(10);
    }
    expect(connections).to.equal(1);
  });

  it('tells of a connection that breaks and of a host that is not there', async () => {
    const response = await get();
    const closed = new Promise((resolve) => response.on('close', resolve));
    const failed = once(response, 'error').then(([error]) => error as Error);
    response.once('data', () => servers.all[0]?.closeAllConnections());
    await closed;
    expect(response.complete).to.equal(false);
    expect((await failed).message).to.equal('aborted');
    servers.end();
    const error = await get().then(
      () => undefined,
      (failure: unknown) => failure,
    );
    expect(error).to.include({ code: 'ECONNREFUSED' });
  });
});
