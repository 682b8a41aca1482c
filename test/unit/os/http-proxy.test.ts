import { expect } from 'chai';
import { once } from 'node:events';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { request } from 'node:https';
import type { Socket } from 'node:net';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { ClassifiedError } from '../../../src/base/errors.ts';
import { TunnelAgent } from '../../../src/os/http-agent.ts';
import { ask } from '../../../src/os/http-client.ts';
import { proxyOf } from '../../../src/os/http-proxy.ts';
import { Authority } from '../../lib/certificates.ts';
import { HttpServers } from '../../lib/http-servers.ts';

const PROXY = 'http://proxy.test:3128/';

describe('os/http-proxy', () => {
  const via = (url: string, noProxy: string, more: NodeJS.ProcessEnv = {}): string | undefined =>
    proxyOf(new URL(url), { HTTP_PROXY: PROXY, HTTPS_PROXY: 'https://secure.test/', NO_PROXY: noProxy, ...more });

  it('takes what the environment names for the scheme', () => {
    expect(via('http://a.test/', '')).to.equal(PROXY);
    expect(via('https://a.test/', '')).to.equal('https://secure.test/');
    expect(proxyOf(new URL('https://a.test/'), { HTTP_PROXY: PROXY })).to.equal(undefined);
    expect(proxyOf(new URL('http://a.test/'), { http_proxy: 'small.test:80', HTTPS_PROXY: PROXY })).to.equal('http://small.test/');
    expect(proxyOf(new URL('http://a.test/'), { HTTP_PROXY: 'proxy.test:3128' })).to.equal(PROXY);
    expect(proxyOf(new URL('http://a.test/'), { HTTP_PROXY: 'HTTP://me:s3cret@proxy.test\n' })).to.equal('http://me:s3cret@proxy.test/');
    expect(proxyOf(new URL('http://a.test/'), { HTTP_PROXY: '' })).to.equal(undefined);
  });

  it('asks no proxy for what is on this machine', () => {
    for (const url of ['http://localhost:5000/', 'http://LOCALHOST./', 'http://127.0.0.1/', 'http://127.8.8.8:1/', 'https://[::1]:5000/'])
      expect(via(url, ''), url).to.equal(undefined);
    expect(via('http://10.0.0.1/', '')).to.equal(PROXY);
    expect(via('http://localhost.test/', '')).to.equal(PROXY);
  });

  it('reads NO_PROXY as programs in Go do', () => {
    const direct: ReadonlyArray<readonly [string, string]> = [
      ['http://anything.test/', '*'],
      ['http://a.test/', 'b.test, A.test'],
      ['http://sub.a.test/', 'a.test'],
      ['http://sub.a.test/', '.a.test'],
      ['http://sub.a.test/', '*.a.test'],
      ['http://a.test/', 'a.test:80'],
      ['https://a.test/', 'a.test:443'],
      ['http://10.1.2.3/', '10.0.0.0/8'],
      ['http://10.1.2.3/', '10.1.2.3'],
      ['http://10.1.2.3:81/', '10.1.2.3:81'],
      ['http://[fd00::1]/', 'fd00::/8'],
      ['http://[fd00::1]:5000/', '[fd00::1]:5000'],
    ];
    for (const [url, noProxy] of direct) expect(via(url, noProxy), `${url} with ${noProxy}`).to.equal(undefined);
    const proxied: ReadonlyArray<readonly [string, string]> = [
      ['http://a.test/', '.a.test'],
      ['http://ba.test/', 'a.test'],
      ['http://a.test:81/', 'a.test:80'],
      ['http://11.1.2.3/', '10.0.0.0/8'],
      ['http://10.1.2.3/', '10.0.0.0/99'],
      ['http://10.1.2.3/', '10.0.0.0/, 10.0.0.0/8.5, 10.0.0.0/-1, 10.0.0.0/8/8'],
      ['http://10.1.2.3/', 'fd00::/8, 10.1.2, ,'],
      ['http://a.test/', ''],
    ];
    for (const [url, noProxy] of proxied) expect(via(url, noProxy), `${url} with ${noProxy}`).to.equal(PROXY);
    expect(proxyOf(new URL('http://a.test/'), { HTTP_PROXY: PROXY, no_proxy: 'a.test' })).to.equal(undefined);
  });

  it('refuses proxies that it can not ask, without their passwords', () => {
    for (const value of ['socks5://me:s3cret@proxy.test', 'http://', 'not a url', 'http://me:100%@proxy.test'])
      expect(() => via('http://a.test/', '', { HTTP_PROXY: value }), value)
        .to.throw(ClassifiedError, 'HTTP_PROXY is not the URL of an http or https proxy')
        .with.property('kind', 'failedPrecondition');
  });
});

describe('os/http-client behind a proxy', () => {
  const NAMES = ['HTTP_PROXY', 'HTTPS_PROXY', 'NO_PROXY', 'http_proxy', 'https_proxy', 'no_proxy'];
  const servers = new HttpServers();
  const saved = new Map<string, string | undefined>();
  const signal = new AbortController().signal;
  const direct = { ca: [], client: [], skipVerify: false, connectTimeoutMs: 5000 };
  let dir: string;

  beforeEach(() => {
    dir = mkdtempSync(join(tmpdir(), 'gantry-proxy-'));
    for (const name of NAMES) saved.set(name, process.env[name]);
    for (const name of NAMES) delete process.env[name];
  });
  afterEach(() => {
    for (const [name, value] of saved) {
      if (value === undefined) delete process.env[name];
      else process.env[name] = value;
    }
    servers.end();
    rmSync(dir, { recursive: true });
  });

  it('asks it for what is http, with its password', async () => {
    const asked: unknown[] = [];
    const proxy = await servers.start((request, response) => {
      asked.push([request.url, request.headers.host, request.headers['proxy-authorization']]);
      response.end(Buffer.alloc(1_000_000, 'x'));
    });
    process.env['HTTP_PROXY'] = `http://me:s3cret@${proxy}`;
    const answer = await ask(direct, { method: 'GET', url: 'http://registry.test/v2/', headers: {}, signal });
    expect((await answer.body(2_000_000)).length).to.equal(1_000_000);
    const authorization = `Basic ${Buffer.from('me:s3cret').toString('base64')}`;
    expect(asked).to.deep.equal([['http://registry.test/v2/', 'registry.test', authorization]]);
  });

  const url = 'https://registry.test/v2/';
  const failure = async (asked: Promise<unknown>): Promise<ClassifiedError> => {
    const error = await asked.catch((e: unknown) => e);
    expect(error).to.be.instanceOf(ClassifiedError).with.property('kind', 'unavailable');
    return error as ClassifiedError;
  };

  it('asks it for a tunnel to what is https, and verifies the host beyond', async () => {
    const authority = new Authority(dir, 'proxied');
    const { certificate, key } = authority.sign('registry', { host: 'registry.test' });
    const tls = { cert: readFileSync(certificate), key: readFileSync(key) };
    const [, port] = (await servers.start((_, response) => response.end('v2'), tls)).split(':');
    const tunnels: Array<string | undefined> = [];
    process.env['HTTPS_PROXY'] = await servers.start((_, response) => response.writeHead(500).end());
    servers.all.at(-1)?.on('connect', (request, socket) => {
      tunnels.push(request.url);
      const to = connect(Number(port), '127.0.0.1', () => {
        socket.write('HTTP/1.1 200 OK\r\n\r\n');
        to.pipe(socket).pipe(to);
      });
      for (const end of [to, socket]) end.on('error', () => undefined);
    });
    const host = { ...direct, ca: [authority.certificate] };
    for (let n = 0; n < 2; n++) {
      const answer = await ask(host, { method: 'GET', url, headers: {}, signal });
      expect((await answer.body(10)).toString()).to.equal('v2');
    }
    expect(tunnels).to.include('registry.test:443');
    expect((await failure(ask(direct, { method: 'GET', url, headers: {}, signal }))).message).to.contain('certificate');
  });

  const SILENT: Readonly<Record<string, (socket: Socket) => void>> = {
    'says nothing': () => undefined,
    'says yes and nothing more': (socket) => void socket.write('HTTP/1.1 200 OK\r\n\r\n'),
  };
  for (const [what, answer] of Object.entries(SILENT))
    it(`gives up a proxy that ${what}, after the time for a connection and when it is told to`, async () => {
      const { host: proxy, open } = await servers.startRaw(answer);
      process.env['HTTPS_PROXY'] = proxy;
      const late = await failure(ask({ ...direct, connectTimeoutMs: 200 }, { method: 'GET', url, headers: {}, signal }));
      expect(late.message).to.equal('https://registry.test: no connection within 200 ms');
      expect(late.detail).to.deep.equal({ isUnreachable: true });
      const end = new AbortController();
      setTimeout(() => end.abort(), 100);
      const aborted = await failure(ask(direct, { method: 'GET', url, headers: {}, signal: end.signal }));
      expect(aborted.message).to.contain('aborted');
      expect(open()).to.equal(2);
      const agent = new TunnelAgent(`http://${proxy}`, {}, 100);
      const asked = request(url, { agent });
      const [error] = (await once(asked, 'error')) as [Error];
      expect(error.message).to.match(/no tunnel within 100 ms|disconnected/);
      for (let n = 0; open() > 2 && n < 50; n++) await sleep(20);
      expect(open(), 'the agent gives up by itself too').to.equal(2);
    });

  const REFUSING: Readonly<Record<string, (socket: Socket) => void>> = {
    'and keeps the connection': () => undefined,
    'and breaks the connection': (socket) => void setTimeout(() => socket.resetAndDestroy(), 20),
  };
  for (const [what, then] of Object.entries(REFUSING))
    it(`tells of a proxy that refuses ${what}, and keeps none`, async () => {
      const { host: proxy, open } = await servers.startRaw((socket) => {
        socket.write('HTTP/1.1 407 Proxy Authentication Required\r\n\r\n');
        then(socket);
      });
      process.env['HTTPS_PROXY'] = `http://me:s3cret@${proxy}`;
      for (let n = 0; n < 3; n++) {
        const { message } = await failure(ask(direct, { method: 'GET', url, headers: {}, signal }));
        expect(message)
          .to.match(/^https:\/\/registry\.test: .*407/s)
          .and.not.contain('s3cret');
      }
      for (let n = 0; open() > 0 && n < 50; n++) await sleep(20);
      expect(open()).to.equal(0);
    });
});
