import { expect } from 'chai';
import fc from 'fast-check';
import type { Socket } from 'node:net';
import { silentLogger } from '../../../src/base/log.ts';
import type { StreamingServer } from '../../../src/streaming/server.ts';
import { createStreamingServer } from '../../../src/streaming/server.ts';
import { controlFrame, dataHeader, TYPE } from '../../../src/streaming/spdy/frame.ts';
import { upgradeToSpdy } from '../../lib/spdy-client.ts';
import { maskedFrame, rawWebSocket } from '../../lib/websocket-tunnel.ts';
import { rawSocket, SpdyCommand, until, V4 } from './clients.ts';
import { FakeRuntime } from './fake-runtime.ts';

const WANTED = { stdin: true, stdout: true, stderr: true };

/** A frame that looks right and says something odd, or noise. */
const spdyNoise = fc.oneof(
  fc.uint8Array({ maxLength: 300 }).map((bytes) => Buffer.from(bytes)),
  fc
    .tuple(fc.integer({ min: 0, max: 12 }), fc.integer({ min: 0, max: 255 }), fc.uint8Array({ maxLength: 100 }))
    .map(([type, flags, payload]) => controlFrame(type, flags, Buffer.from(payload))),
  fc.tuple(fc.constantFrom(1, 3, 5, 7, 8, 99), fc.uint8Array({ maxLength: 100 }), fc.boolean()).map(([id, bytes, fin]) => {
    return Buffer.concat([dataHeader(id, bytes.length, fin), Buffer.from(bytes)]);
  }),
  fc
    .tuple(fc.constantFrom<number>(TYPE.windowUpdate, TYPE.rstStream), fc.integer({ min: 0, max: 9 }), fc.nat(0x7fffffff))
    .map(([type, id, value]) => controlFrame(type, 0, id, value)),
);

const webSocketNoise = fc.oneof(
  fc.uint8Array({ maxLength: 300 }).map((bytes) => Buffer.from(bytes)),
  fc
    .tuple(fc.constantFrom(0, 1, 2, 3, 8, 9, 10, 15), fc.uint8Array({ maxLength: 200 }))
    .map(([opcode, payload]) => maskedFrame(opcode, Buffer.from(payload))),
);

describe('streaming: hostile clients', () => {
  let runtime: FakeRuntime;
  let server: StreamingServer;

  before(async () => {
    runtime = new FakeRuntime();
    server = await createStreamingServer({ runtime, log: silentLogger, limits: { streamCreationMs: 1000, keepAliveMs: 50 } });
  });
  after(async () => {
    await server.close();
    expect([runtime.running, server.sessions], 'what runs on').to.deep.equal([0, 0]);
  });
  afterEach(async () => {
    await until('every session is over', () => server.sessions === 0 && runtime.running === 0);
    const command = await SpdyCommand.dial(server.execUrl({ containerId: 'c', cmd: ['echo', 'alive'], ...WANTED }), WANTED);
    expect((await command.result()).stdout).to.equal('alive\n');
  });

  const execUrl = (): string => server.execUrl({ containerId: 'c', cmd: ['cat'], ...WANTED });
  const portForwardUrl = (): string => server.portForwardUrl({ podSandboxId: 'p', port: [1] });

  /** Sends the parts with pauses, as TCP would, and goes. */
  async function sendAndGo(socket: Socket, parts: readonly Buffer[]): Promise<void> {
    socket.on('error', () => {});
    socket.resume();
    for (const part of parts) {
      if (socket.destroyed) return;
      socket.write(part);
      await new Promise((resolve) => setImmediate(resolve));
    }
    socket.destroy();
  }

  it('survives any SPDY frames before the streams are there', async () => {
    await fc.assert(
      fc.asyncProperty(fc.array(spdyNoise, { maxLength: 8 }), fc.boolean(), async (parts, forward) => {
        const [url, protocol] = forward ? [portForwardUrl(), 'portforward.k8s.io'] : [execUrl(), V4];
        const { socket } = await upgradeToSpdy(url, { protocols: [protocol] });
        await sendAndGo(socket as Socket, parts);
      }),
      { numRuns: 200 },
    );
  });

  it('survives any SPDY frames in a session', async () => {
    await fc.assert(
      fc.asyncProperty(fc.array(spdyNoise, { maxLength: 8 }), async (parts) => {
        const { client } = await SpdyCommand.dial(execUrl(), WANTED);
        await sendAndGo(client.transport as Socket, parts);
        await client.closed;
      }),
      { numRuns: 200 },
    );
  });

  it('survives any WebSocket frames', async () => {
    const protocols = fc.constantFrom('v5.channel.k8s.io', 'v4.base64.channel.k8s.io', 'SPDY/3.1+portforward.k8s.io', 'v4.channel.k8s.io');
    await fc.assert(
      fc.asyncProperty(fc.array(webSocketNoise, { maxLength: 8 }), protocols, async (parts, protocol) => {
        const { socket } = await rawWebSocket(protocol.startsWith('SPDY') ? portForwardUrl() : execUrl(), protocol);
        await sendAndGo(socket, parts);
      }),
      { numRuns: 200 },
    );
  });

  it('takes what comes right behind the request, good or bad', async () => {
    const request = (): string => {
      const lines = [`GET ${new URL(execUrl()).pathname} HTTP/1.1`, 'Host: x', 'Connection: Upgrade', 'Upgrade: websocket'];
      const fields = { Version: '13', Key: 'AAAAAAAAAAAAAAAAAAAAAA==', Protocol: V4 };
      return [...lines, ...Object.entries(fields).map(([name, value]) => `Sec-WebSocket-${name}: ${value}`), '', ''].join('\r\n');
    };
    const socket = await rawSocket(execUrl());
    let received = '';
    socket.on('data', (bytes: Buffer) => (received += bytes.toString('latin1')));
    socket.write(Buffer.concat([Buffer.from(request()), maskedFrame(2, Buffer.from('\0early'))]));
    await until('the echo', () => received.includes('early'));
    socket.destroy();
    // A frame with bits that must be clear.
    await sendAndGo(await rawSocket(execUrl()), [Buffer.concat([Buffer.from(request()), Buffer.of(0xff, 0xff, 1, 2, 3)]), Buffer.alloc(1)]);
  });

  it('survives any HTTP', async () => {
    const line = fc.string({ maxLength: 100 });
    const heads = fc.oneof(
      line,
      fc.tuple(fc.constantFrom('GET', 'POST', 'PUT'), line).map(([method, extra]) => {
        const path = new URL(execUrl()).pathname;
        return `${method} ${path} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: ${extra.replace(/[^a-z/.0-9]/gi, '') || 'websocket'}\r\n\r\n`;
      }),
    );
    await fc.assert(
      fc.asyncProperty(heads, async (head) => {
        await sendAndGo(await rawSocket(execUrl()), [Buffer.from(head), Buffer.from('\r\n\r\n')]);
      }),
      { numRuns: 200 },
    );
  });

  it('says GOAWAY with a protocol error to a client that breaks the rules', async () => {
    const { client } = await SpdyCommand.dial(execUrl(), WANTED);
    client.transport.write(dataHeader(0, 1, false));
    await client.closed;
    expect(client.goneAway).to.equal(true);
  });

  it('ends a client whose windows grow beyond what there is', async () => {
    const { client } = await SpdyCommand.dial(execUrl(), WANTED);
    client.transport.write(controlFrame(TYPE.windowUpdate, 0, 0, 0x7fffffff));
    client.transport.write(controlFrame(TYPE.windowUpdate, 0, 0, 0x7fffffff));
    await client.closed;
    expect(client.goneAway).to.equal(true);
  });

  it('counts tiny pieces of input at what they cost', async () => {
    const url = server.execUrl({ containerId: 'c', cmd: ['sleep'], ...WANTED });
    const { client, streams } = await SpdyCommand.dial(url, WANTED);
    const id = streams['stdin']?.id ?? 0;
    const piece = Buffer.concat([dataHeader(id, 1, false), Buffer.of(1)]);
    const many = Buffer.concat(Array.from({ length: 10_000 }, () => piece));
    const before = process.memoryUsage().heapUsed;
    for (let i = 0; i < 30; i++) client.transport.write(many);
    await new Promise((resolve) => setTimeout(resolve, 300));
    expect(process.memoryUsage().heapUsed - before).to.be.lessThan(30 << 20);
    await client.close();
  });
});
