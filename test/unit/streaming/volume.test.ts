import { expect } from 'chai';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { readdirSync } from 'node:fs';
import type { AddressInfo, Socket } from 'node:net';
import { createServer } from 'node:net';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { silentLogger } from '../../../src/base/log.ts';
import type { StreamingServer } from '../../../src/streaming/server.ts';
import { createStreamingServer } from '../../../src/streaming/server.ts';
import { SpdyClient } from '../../lib/spdy-client.ts';
import { SpdyCommand, until, WsCommand } from './clients.ts';
import { FakeRuntime } from './fake-runtime.ts';
import { size } from '../../lib/size.ts';

const MIB = 1 << 20;
const SIZE_MIB = size('STREAM_MIB', 64, 1024);
const SESSIONS = size('STREAM_SESSIONS', 500, 10_000);
/** Each costs two descriptors here, as the client is in this process too. */
const AT_ONCE = Math.min(SESSIONS, 5000);
const SLOW_MS = 600_000;

const BLOCK = Buffer.from(Array.from({ length: 65_536 }, (_, i) => (i * 31 + (i >> 8)) % 256));
/** Every block differs, so that a lost or doubled one is seen. */
function block(i: number): Buffer {
  const bytes = Buffer.from(BLOCK);
  bytes.writeUInt32BE(i, 0);
  return bytes;
}

const descriptors = (): number => readdirSync('/proc/self/fd').length;
setFlagsFromString('--expose-gc');
const gc = runInNewContext('gc') as () => void;
const collect = async (): Promise<NodeJS.MemoryUsage> => {
  await new Promise((resolve) => setTimeout(resolve, 50));
  gc();
  return process.memoryUsage();
};

describe('streaming: large transfers and many sessions', function () {
  this.timeout(SLOW_MS);
  let runtime: FakeRuntime;
  let server: StreamingServer;
  const report: string[] = [];

  beforeEach(async () => {
    runtime = new FakeRuntime();
    server = await createStreamingServer({ runtime, log: silentLogger, limits: { maxSessions: 2 * AT_ONCE, maxTokens: AT_ONCE } });
  });
  afterEach(async () => {
    await server.close();
    expect([runtime.running, server.sessions], 'what runs on').to.deep.equal([0, 0]);
  });
  after(() => {
    for (const line of report) console.log(`      ${line}`);
  });

  const execUrl = (cmd: string[]): string => server.execUrl({ containerId: 'c', cmd, stdin: true, stdout: true });

  /** Sends the blocks and, at the same time, takes the echo of them. Compares checksums and watches this process's memory. */
  async function echo(
    name: string,
    send: (chunk: Buffer) => Promise<unknown>,
    chunks: AsyncIterable<Buffer>,
    end: () => void,
  ): Promise<void> {
    const [sent, received] = [createHash('sha256'), createHash('sha256')];
    const before = (await collect()).rss;
    const begun = performance.now();
    let [size, peak, nextLook] = [0, 0, 0];
    const reading = (async () => {
      for await (const chunk of chunks) {
        size += chunk.length;
        received.update(chunk);
        if (size > nextLook) {
          // What V8 has not collected yet is none of what is measured.
          gc();
          peak = Math.max(peak, process.memoryUsage.rss());
          nextLook += 8 * MIB;
        }
        if (size === SIZE_MIB * MIB) end();
      }
    })();
    for (let i = 0; i < SIZE_MIB * 16; i++) {
      const chunk = block(i);
      sent.update(chunk);
      await send(chunk);
    }
    await reading;
    const seconds = (performance.now() - begun) / 1000;
    const grown = (peak - before) / MIB;
    report.push(
      `${name}: ${SIZE_MIB} MiB there and back, ${Math.round((2 * SIZE_MIB) / seconds)} MiB/s, memory +${Math.round(grown)} MiB at most`,
    );
    expect(size).to.equal(SIZE_MIB * MIB);
    expect(received.digest('hex')).to.equal(sent.digest('hex'));
    // Twice the size of a run would be what buffering looks like.
    expect(grown, 'growth in MiB').to.be.lessThan(Math.min(SIZE_MIB, 96));
  }

  for (const flowControl of ['none', 'obeys'] as const)
    it(`SPDY, flow control: ${flowControl}`, async () => {
      const wanted = { stdin: true, stdout: true };
      const { client, streams } = await SpdyCommand.dial(execUrl(['cat']), wanted, { flowControl, initialWindowBytes: 262_144 });
      const { stdin, stdout } = streams;
      if (!stdin || !stdout) throw new Error('no streams');
      await echo(
        `SPDY (${flowControl})`,
        (chunk) => stdin.say(chunk),
        stdout as AsyncIterable<Buffer>,
        () => stdin.end(),
      );
      await client.close();
    });

  it('WebSocket', async () => {
    const command = await WsCommand.dial(execUrl(['cat']), 'v5.channel.k8s.io');
    command.ws.removeAllListeners('message');
    async function* chunks(): AsyncGenerator<Buffer> {
      const queue: Buffer[] = [];
      let wake = (): void => {};
      command.ws.on('message', (data: Buffer) => {
        if (data[0] === 1) queue.push(data.subarray(1));
        if (queue.length > 64) command.ws.pause();
        wake();
      });
      for (let size = 0; size < SIZE_MIB * MIB;) {
        const chunk = queue.shift();
        if (chunk) {
          size += chunk.length;
          yield chunk;
        } else {
          command.ws.resume();
          await new Promise<void>((resolve) => (wake = resolve));
        }
      }
    }
    const send = (chunk: Buffer): Promise<unknown> =>
      new Promise((resolve) => command.ws.send(Buffer.concat([Buffer.of(0), chunk]), { binary: true }, resolve));
    await echo('WebSocket', send, chunks(), () => command.ws.send(Buffer.of(255, 0)));
    expect((await command.closed).code).to.equal(1000);
  });

  it('port forwarding', async () => {
    const pod = createServer({ allowHalfOpen: true }, (socket) => socket.on('error', () => {}).pipe(socket)).listen(0, '127.0.0.1');
    await once(pod, 'listening');
    const { port } = pod.address() as AddressInfo;
    const client = await SpdyClient.dial(server.portForwardUrl({ podSandboxId: 'p' }), { protocols: ['portforward.k8s.io'] });
    const headers = { port: String(port), requestid: '0' };
    (await client.open({ ...headers, streamtype: 'error' })).resume();
    const data = await client.open({ ...headers, streamtype: 'data' });
    await echo(
      'port forwarding',
      (chunk) => data.say(chunk),
      data as AsyncIterable<Buffer>,
      () => data.end(),
    );
    await client.close();
    pod.close();
    await until('the connection is closed', () => runtime.connections === 0);
  });

  it(`${SESSIONS} attached clients of a silent container that vanish (S8)`, async () => {
    const wanted = { stdin: true, stdout: true, stderr: true };
    const round = async (count: number): Promise<number> => {
      const commands: Array<{ vanish: () => void }> = [];
      for (let i = 0; i < count; i++) {
        const url = server.attachUrl({ containerId: 'sleep', ...wanted });
        if (i % 2 === 0) {
          const { client } = await SpdyCommand.dial(url, wanted);
          commands.push({ vanish: () => (client.transport as Socket).resetAndDestroy() });
        } else {
          const { ws } = await WsCommand.dial(url, 'v4.channel.k8s.io');
          commands.push({ vanish: () => ws.terminate() });
        }
      }
      await until('all are attached', () => runtime.running === count);
      const { rss } = await collect();
      for (const { vanish } of commands) vanish();
      await until('every session is over', () => runtime.running === 0 && server.sessions === 0, 60_000);
      return rss;
    };
    // Code and caches warm up.
    await round(Math.min(500, AT_ONCE));
    runtime.aborted.length = 0;
    const [before, fds] = [await collect(), descriptors()];
    let full = 0;
    for (let done = 0; done < SESSIONS; done += AT_ONCE) {
      full = await round(AT_ONCE);
      runtime.aborted.length = 0;
    }
    const after = await collect();
    const each = Math.round((full - before.rss) / AT_ONCE / 1024);
    const grown = Math.round((after.heapUsed - before.heapUsed) / 1024);
    report.push(`${SESSIONS} sessions: ${each} KiB each with its client, heap after them ${grown >= 0 ? '+' : ''}${grown} KiB`);
    await until('descriptors are closed', () => descriptors() <= fds);
    expect(grown, 'heap growth in KiB').to.be.lessThan(2048);
  });
});
