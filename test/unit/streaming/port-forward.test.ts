import { expect } from 'chai';
import { once } from 'node:events';
import type { AddressInfo, Server, Socket } from 'node:net';
import { createServer } from 'node:net';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { silentLogger } from '../../../src/base/log.ts';
import type { StreamingServer, StreamingServerOptions } from '../../../src/streaming/server.ts';
import { createStreamingServer } from '../../../src/streaming/server.ts';
import type { SpdyClientStream } from '../../lib/spdy-client.ts';
import { SpdyClient } from '../../lib/spdy-client.ts';
import { WebSocketTunnel } from '../../lib/websocket-tunnel.ts';
import { until, WsCommand } from './clients.ts';
import { FakeRuntime } from './fake-runtime.ts';

setFlagsFromString('--expose-gc');
const collect = runInNewContext('gc') as () => void;

interface Pair {
  readonly error: SpdyClientStream;
  readonly data: SpdyClientStream;
}

async function openPair(client: SpdyClient, port: number, requestid?: number): Promise<Pair> {
  const headers = { port: String(port), ...(requestid !== undefined && { requestid: String(requestid) }) };
  const error = await client.open({ ...headers, streamtype: 'error' });
  error.end();
  return { error, data: await client.open({ ...headers, streamtype: 'data' }) };
}

describe('streaming: port forwarding', () => {
  let runtime: FakeRuntime;
  let server: StreamingServer;
  let pod: Server;
  let sockets: Socket[];
  let port: number;

  const start = async (limits: StreamingServerOptions['limits'] = {}): Promise<void> => {
    await server?.close();
    server = await createStreamingServer({ runtime, log: silentLogger, limits });
  };
  beforeEach(async () => {
    runtime = new FakeRuntime();
    await start();
    sockets = [];
    // What "listens in the pod": an echo with half-closes.
    pod = createServer({ allowHalfOpen: true }, (socket) => {
      sockets.push(socket.on('error', () => {}));
      socket.pipe(socket);
    }).listen(0, '127.0.0.1');
    await once(pod, 'listening');
    port = (pod.address() as AddressInfo).port;
  });
  afterEach(async () => {
    await server.close();
    await until('no connection is left', () => runtime.connections === 0);
    expect(server.sessions).to.equal(0);
    pod.close();
  });

  const url = (ports: number[] = []): string => server.portForwardUrl({ podSandboxId: 'p', port: ports });
  const plain = (ports?: number[]): Promise<SpdyClient> => SpdyClient.dial(url(ports), { protocols: ['portforward.k8s.io'] });
  const tunnelled = async (ports?: number[]): Promise<SpdyClient> => {
    const tunnel = await WebSocketTunnel.dial(url(ports), 'SPDY/3.1+portforward.k8s.io');
    return new SpdyClient(tunnel, tunnel.protocol);
  };

  for (const [name, dial] of [
    ['SPDY', plain],
    ['SPDY in a WebSocket', tunnelled],
  ] as const)
    describe(name, () => {
      it('joins many connections at a time', async () => {
        const client = await dial();
        const sizes = Array.from({ length: 100 }, (_, i) => (i * 7919) % 100_000);
        await Promise.all(
          sizes.map(async (size, i) => {
            const { error, data } = await openPair(client, port, i);
            data.end(Buffer.alloc(size, i));
            const [echo, words] = await Promise.all([data.all(), error.all()]);
            expect(echo.equals(Buffer.alloc(size, i))).to.equal(true);
            expect(String(words)).to.equal('');
          }),
        );
        await until('the connections are closed', () => runtime.connections === 0);
        await client.close();
      });

      it('says on the error stream that nothing listens, and goes on', async () => {
        const client = await dial();
        const { error, data } = await openPair(client, 1, 1);
        expect(String(await error.all())).to.equal('forward port 1 to pod sandbox p: nothing listens on port 1');
        expect(await data.all()).to.have.length(0);
        const second = await openPair(client, port, 2);
        second.data.end('still here');
        expect(String(await second.data.all())).to.equal('still here');
        await client.close();
      });

      it('closes the connections of a client that is gone', async () => {
        const client = await dial();
        for (let i = 0; i < 5; i++) await (await openPair(client, port, i)).data.say('x');
        await until('all are connected', () => runtime.connections === 5);
        client.transport.destroy();
        await until('none is', () => runtime.connections === 0);
        await until('the session is over', () => server.sessions === 0);
      });
    });

  it('passes a half-close from the pod on', async () => {
    const client = await plain();
    const { data } = await openPair(client, port, 1);
    await data.say('x');
    await until('it is connected', () => sockets.length === 1);
    sockets[0]?.unpipe();
    sockets[0]?.end('bye');
    expect(String(await data.all())).to.match(/x?bye/);
    data.end();
    await until('it is closed', () => runtime.connections === 0);
    await client.close();
  });

  it('says nothing when a connection breaks: the others would break with it', async () => {
    const client = await plain();
    const [first, second] = [await openPair(client, port, 1), await openPair(client, port, 2)];
    await first.data.say('x');
    await until('it is connected', () => sockets.length > 0);
    sockets[0]?.resetAndDestroy();
    expect(String(await first.error.all())).to.equal('');
    second.data.end('y');
    expect(String(await second.data.all())).to.equal('y');
    await client.close();
  });

  it('closes a connection when its stream is reset', async () => {
    const client = await plain();
    const { data } = await openPair(client, port, 1);
    await data.say('x');
    await until('it is connected', () => runtime.connections === 1);
    data.destroy();
    await until('it is closed', () => runtime.connections === 0);
    await client.close();
  });

  it('pairs the streams of old clients by their ids', async () => {
    const client = await plain();
    const { data } = await openPair(client, port);
    data.end('x');
    expect(String(await data.all())).to.equal('x');
    await client.close();
  });

  it('refuses streams that name no port, no type, or a port that was not asked for', async () => {
    const client = await plain([port]);
    const bad = [
      { streamtype: 'data' },
      { streamtype: 'data', port: '0' },
      { streamtype: 'data', port: '80x' },
      { streamtype: 'data', port: '65536' },
      { streamtype: 'data', port: '1' },
      { streamtype: 'stdin', port: String(port) },
      { port: String(port) },
    ];
    for (const headers of bad) expect(await client.open(headers as Record<string, string>).catch(String)).to.contain('was reset: 3');
    const { data } = await openPair(client, port, 1);
    data.end('x');
    expect(String(await data.all())).to.equal('x');
    await client.close();
  });

  it('gives up on half of a pair, and tells', async () => {
    await start({ streamCreationMs: 50 });
    const client = await plain();
    const error = await client.open({ streamtype: 'error', port: String(port), requestid: '5' });
    expect(String(await error.all())).to.contain('request 5: the other stream did not come within 50 ms');
    await client.close();
  });

  it('forgets half of a pair that is reset', async () => {
    await start({ streamCreationMs: 50 });
    const client = await plain();
    (await client.open({ streamtype: 'error', port: String(port), requestid: '5' })).destroy();
    const data = await client.open({ streamtype: 'data', port: String(port), requestid: '5' });
    await data.say('x');
    expect(String(await data.all())).to.equal('');
    expect(runtime.connections).to.equal(0);
    await client.close();
  });

  it('holds nothing of streams that are reset at once', async () => {
    const client = await plain();
    collect();
    const before = process.memoryUsage().heapUsed;
    for (let i = 0; i < 1000; i++) {
      const stream = await client.open({ streamtype: 'error', port: String(port), requestid: `${i}`.padEnd(60_000, 'x') });
      stream.destroy();
      client.streams.delete(stream.id);
    }
    await client.open({ streamtype: 'error', port: String(port), requestid: 'last' });
    collect();
    expect(process.memoryUsage().heapUsed - before).to.be.lessThan(20 << 20);
    await client.close();
  });

  it('opens no more streams than it may', async () => {
    await start({ maxStreams: 4 });
    const client = await plain();
    const pairs = [await openPair(client, port, 1), await openPair(client, port, 2)];
    expect(await client.open({ streamtype: 'error', port: String(port), requestid: '3' }).catch(String)).to.contain('was reset: 3');
    for (const { data } of pairs) {
      data.end('x');
      await data.all();
    }
    await until('they are closed', () => runtime.connections === 0);
    await (await openPair(client, port, 4)).data.say('x');
    await client.close();
  });

  for (const protocol of ['v4.channel.k8s.io', 'v4.base64.channel.k8s.io', ''])
    describe(`channels, ${protocol || 'no subprotocol'}`, () => {
      const portBytes = (): Buffer => Buffer.from([port & 255, port >> 8]);

      it('has a data and an error channel for each port', async () => {
        const command = await WsCommand.dial(url([port, 1]), protocol);
        command.send(0, 'hello');
        await until('the echo', () => command.text(0).endsWith('hello'));
        await until('the error', () => command.text(3).length > 2);
        expect(Buffer.concat(command.received.get(0) ?? [])).to.deep.equal(Buffer.concat([portBytes(), Buffer.from('hello')]));
        expect(command.received.get(1)?.[0]).to.deep.equal(portBytes());
        expect(command.text(3)).to.contain('nothing listens on port 1');
        command.ws.close();
      });

      it('takes the ports from the query when the request names none', async () => {
        const command = await WsCommand.dial(`${url()}?port=${port}`, protocol);
        command.send(0, 'x');
        await until('the echo', () => command.text(0).endsWith('x'));
        command.ws.close();
        const none = await WsCommand.dial(`${url()}?port=0`, protocol);
        expect((await none.closed).code).to.equal(1002);
      });

      it('closes when the pod has closed', async () => {
        const command = await WsCommand.dial(url([port]), protocol);
        command.send(0, 'x');
        await until('the echo', () => command.text(0).endsWith('x'));
        sockets[0]?.end();
        expect((await command.closed).code).to.equal(1000);
      });
    });
});
