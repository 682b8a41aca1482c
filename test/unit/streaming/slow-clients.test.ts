import { expect } from 'chai';
import { once } from 'node:events';
import type { Socket } from 'node:net';
import { silentLogger } from '../../../src/base/log.ts';
import type { StreamingServer, StreamingServerOptions } from '../../../src/streaming/server.ts';
import { createStreamingServer } from '../../../src/streaming/server.ts';
import { controlFrame, TYPE } from '../../../src/streaming/spdy/frame.ts';
import { upgradeToSpdy } from '../../lib/spdy-client.ts';
import { rawWebSocket } from '../../lib/websocket-tunnel.ts';
import { SpdyCommand, until, V4, WsCommand } from './clients.ts';
import { FakeRuntime } from './fake-runtime.ts';

const MIB = 1 << 20;
const reason = (runtime: FakeRuntime): string => String(runtime.aborted[0]);

describe('streaming: slow, idle and vanished clients', () => {
  let runtime: FakeRuntime;
  let server: StreamingServer;

  const start = async (limits: StreamingServerOptions['limits']): Promise<void> => {
    runtime = new FakeRuntime();
    server = await createStreamingServer({ runtime, log: silentLogger, limits });
  };
  afterEach(async () => {
    await server.close();
    expect([runtime.running, server.sessions], 'what runs on').to.deep.equal([0, 0]);
  });

  type Wanted = Parameters<typeof SpdyCommand.dial>[1];
  const spdy = (cmd: string[], wanted: Wanted = { stdout: true }): Promise<SpdyCommand> =>
    SpdyCommand.dial(server.execUrl({ containerId: 'c', cmd, ...wanted }), wanted);
  const websocket = (cmd: string[], wanted: Wanted = { stdout: true }): Promise<WsCommand> =>
    WsCommand.dial(server.execUrl({ containerId: 'c', cmd, ...wanted }), 'v5.channel.k8s.io');

  /** Opens a command that writes, and reads none of it. */
  const unread: Record<string, (cmd: string[]) => Promise<() => void>> = {
    async SPDY(cmd) {
      const { client } = await spdy(cmd);
      client.transport.pause();
      return () => client.transport.destroy();
    },
    async WebSocket(cmd) {
      const { socket } = await rawWebSocket(server.execUrl({ containerId: 'c', cmd, stdout: true }), 'v5.channel.k8s.io');
      socket.pause();
      return () => socket.destroy();
    },
  };

  for (const [name, open] of Object.entries(unread))
    describe(name, () => {
      it('ends a client that stops reading while the runtime respects that', async () => {
        await start({ writeStallMs: 200 });
        const end = await open(['yes']);
        await until('the command runs', () => runtime.running === 1);
        await until('it is aborted', () => runtime.running === 0);
        expect(reason(runtime)).to.contain('the client read nothing for 200 ms');
        end();
      });

      it('ends a client that is behind by more than the limit when the runtime writes on', async () => {
        await start({ backlogBytes: MIB });
        const before = process.memoryUsage().rss;
        const end = await open(['yes', 'rude']);
        await until('the command runs', () => runtime.running === 1);
        await until('it is aborted', () => runtime.running === 0);
        expect(reason(runtime)).to.contain(`the client is behind by more than ${MIB} bytes`);
        expect(process.memoryUsage().rss - before).to.be.lessThan(64 * MIB);
        end();
      });

      it('does not let others wait for it', async () => {
        await start({});
        const end = await open(['yes']);
        const [over, begun] = [await spdy(['echo', 'hi']), Date.now()];
        expect((await over.result()).stdout).to.equal('hi\n');
        expect((await (await websocket(['echo', 'hi'])).result()).stdout).to.equal('hi\n');
        expect(Date.now() - begun).to.be.lessThan(2000);
        expect(runtime.running).to.equal(1);
        end();
        await until('the other is aborted', () => runtime.running === 0);
      });
    });

  it('waits for a client that reads slowly', async () => {
    await start({ writeStallMs: 1000 });
    runtime.programs['much'] = async (signal, _session, { stdout }) => {
      for (let i = 0; i < 200; i++) if (!stdout?.write(Buffer.alloc(65_536)) && stdout) await once(stdout, 'drain', { signal });
      return 0;
    };
    const { client, streams } = await spdy(['much']);
    const begun = Date.now();
    let size = 0;
    for await (const chunk of streams['stdout'] as AsyncIterable<Buffer>) {
      size += chunk.length;
      await new Promise((resolve) => setTimeout(resolve, 2));
    }
    expect(size).to.equal(200 * 65_536);
    expect(Date.now() - begun, 'longer than the stall limit').to.be.greaterThan(1000);
    expect(runtime.aborted).to.deep.equal([]);
    await client.close();
  });

  it('ends what is idle, and not what moves', async () => {
    await start({ idleMs: 250 });
    const [idle, busy] = [await websocket(['cat'], { stdin: true, stdout: true }), await spdy(['cat'], { stdin: true, stdout: true })];
    busy.streams['stdout']?.resume();
    const talk = setInterval(() => busy.streams['stdin']?.write('x'), 50);
    expect(await idle.closed).to.deep.equal({ code: 1011, reason: 'the client was idle for 250 ms' });
    await new Promise((resolve) => setTimeout(resolve, 300));
    expect(runtime.running).to.equal(1);
    clearInterval(talk);
    await busy.client.closed;
    expect(String(runtime.aborted[1])).to.contain('idle');
  });

  describe('input that nobody takes', () => {
    const waiting = { stdin: true, stdout: true };
    /** Sends 8 MiB that are not read; returns how much the server took. */
    const flood = async (socket: Socket, send: (chunk: Buffer) => void): Promise<number> => {
      for (let i = 0; i < 128; i++) send(Buffer.alloc(65_536));
      let before = -1;
      while (socket.bytesWritten - socket.writableLength !== before) {
        before = socket.bytesWritten - socket.writableLength;
        await new Promise((resolve) => setTimeout(resolve, 100));
      }
      return before;
    };
    const clients: Record<string, () => Promise<{ socket: Socket; send: (chunk: Buffer) => void }>> = {
      async SPDY() {
        const { client, streams } = await spdy(['sleep'], waiting);
        return { socket: client.transport as Socket, send: (chunk) => void streams['stdin']?.write(chunk) };
      },
      async WebSocket() {
        const command = await websocket(['sleep'], waiting);
        return { socket: (command.ws as unknown as { _socket: Socket })._socket, send: (chunk) => command.send(0, chunk) };
      },
    };
    for (const [name, dial] of Object.entries(clients))
      it(`${name}: is held back, and the client's end is noticed all the same`, async () => {
        await start({ keepAliveMs: 50 });
        const before = process.memoryUsage().rss;
        const { socket, send } = await dial();
        await until('the command runs', () => runtime.running === 1);
        await flood(socket, send);
        expect(process.memoryUsage().rss - before).to.be.lessThan(64 * MIB);
        expect(runtime.running).to.equal(1);
        socket.resetAndDestroy();
        await until('it is aborted', () => runtime.running === 0);
        expect(reason(runtime)).to.match(/closed the connection|connection to the client/);
      });

    it('goes on when someone takes it', async () => {
      await start({});
      let go = (): void => {};
      const gate = new Promise<void>((resolve) => (go = resolve));
      runtime.programs['late'] = async (_signal, _session, { stdin, stdout }) => {
        await gate;
        let size = 0;
        for await (const chunk of stdin ?? []) size += (chunk as Buffer).length;
        stdout?.write(String(size));
        return 0;
      };
      const [first, second] = [await spdy(['late'], waiting), await websocket(['late'], waiting)];
      for (let i = 0; i < 128; i++) {
        first.streams['stdin']?.write(Buffer.alloc(65_536));
        second.send(0, Buffer.alloc(65_536));
      }
      first.streams['stdin']?.end();
      second.ws.send(Buffer.of(255, 0));
      await new Promise((resolve) => setTimeout(resolve, 200));
      go();
      expect((await first.result()).stdout).to.equal(String(8 * MIB));
      expect((await second.result()).stdout).to.equal(String(8 * MIB));
    });
  });

  it('bounds answers to pings that are not read', async () => {
    await start({ backlogBytes: 65_536 });
    const url = server.execUrl({ containerId: 'c', cmd: ['sleep'], stdout: true });
    const { socket } = await upgradeToSpdy(url, { protocols: [V4] });
    socket.on('error', () => {});
    const pings = Buffer.concat(Array.from({ length: 10_000 }, (_, i) => controlFrame(TYPE.ping, 0, 2 * i + 1)));
    const endsAt = Date.now() + 8000;
    while (!socket.destroyed && server.sessions > 0) {
      expect(Date.now(), 'the server goes on').to.be.lessThan(endsAt);
      if (socket.writableLength < MIB) socket.write(pings);
      await new Promise((resolve) => setImmediate(resolve));
    }
    socket.destroy();
  });
});
