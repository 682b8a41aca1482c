import { expect } from 'chai';
import { execa } from 'execa';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { silentLogger } from '../../../src/base/log.ts';
import { createStreamingServer } from '../../../src/streaming/server.ts';
import { SpdyCommand, WsCommand } from './clients.ts';
import { FakeRuntime } from './fake-runtime.ts';

describe('streaming: where the server listens', () => {
  let dir: string;
  const runtime = new FakeRuntime();
  const wanted = { stdin: true, stdout: true };
  const request = { containerId: 'c', cmd: ['cat'], ...wanted };

  before(async () => {
    dir = await mkdtemp(join(tmpdir(), 'gantry-tls-'));
    const subject = ['-subj', '/CN=127.0.0.1', '-addext', 'subjectAltName=IP:127.0.0.1', '-days', '1'];
    const files = ['-keyout', join(dir, 'key.pem'), '-out', join(dir, 'cert.pem')];
    await execa('openssl', ['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes', ...files, ...subject]);
  });
  after(() => rm(dir, { recursive: true }));

  it('speaks TLS with a certificate, over both protocols', async () => {
    const tls = { certFile: join(dir, 'cert.pem'), keyFile: join(dir, 'key.pem') };
    const server = await createStreamingServer({ runtime, log: silentLogger, tls });
    const ca = await readFile(tls.certFile, 'utf8');
    const url = server.execUrl(request);
    expect(url).to.match(/^https:\/\/127\.0\.0\.1:\d+\/exec\//);
    const spdy = await SpdyCommand.dial(url, wanted, { ca });
    const bytes = Buffer.alloc(1 << 20, 'x');
    spdy.streams['stdin']?.end(bytes);
    expect((await spdy.result()).stdout).to.equal(bytes.toString());
    const ws = await WsCommand.dial(server.execUrl(request), 'v5.channel.k8s.io', ca);
    ws.send(0, 'hello');
    ws.ws.send(Buffer.of(255, 0));
    expect((await ws.result()).stdout).to.equal('hello');
    await server.close();
  });

  it('says what is wrong with its files and its address', async () => {
    const failure = (options: object): Promise<unknown> =>
      createStreamingServer({ runtime, log: silentLogger, ...options }).then(
        () => 'it listens',
        (error: unknown) => error,
      );
    const missing = await failure({ tls: { certFile: join(dir, 'none'), keyFile: join(dir, 'key.pem') } });
    expect(missing).to.have.property('kind', 'failedPrecondition');
    const mixed = await failure({ tls: { certFile: join(dir, 'key.pem'), keyFile: join(dir, 'key.pem') } });
    expect(mixed).to.have.property('kind', 'failedPrecondition');
    const first = await createStreamingServer({ runtime, log: silentLogger });
    const taken = await failure({ port: first.port });
    expect(taken).to.have.property('kind', 'unavailable');
    expect(String(taken)).to.contain(`listen for streaming on 127.0.0.1 port ${first.port}`);
    await first.close();
  });

  it('listens on loopback, and its urls name a host that can be reached', async () => {
    for (const [address, host] of [
      [undefined, '127.0.0.1'],
      ['0.0.0.0', '127.0.0.1'],
    ] as const) {
      const server = await createStreamingServer({ runtime, log: silentLogger, ...(address && { address }) });
      expect(server.address).to.equal(address ?? '127.0.0.1');
      const url = server.execUrl(request);
      expect(new URL(url).hostname).to.equal(host);
      const { client } = await SpdyCommand.dial(url, wanted);
      await client.close();
      await server.close();
    }
  });

  it('refuses what goes beyond its sessions', async () => {
    const server = await createStreamingServer({ runtime, log: silentLogger, limits: { maxSessions: 2 } });
    const commands = [await SpdyCommand.dial(server.execUrl(request), wanted), await SpdyCommand.dial(server.execUrl(request), wanted)];
    expect(await SpdyCommand.dial(server.execUrl(request), wanted).catch(String)).to.contain('too many');
    for (const { client } of commands) await client.close();
    await server.close();
  });
});
