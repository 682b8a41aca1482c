import { expect } from 'chai';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { createServer as createHttpsServer } from 'node:https';
import type { AddressInfo } from 'node:net';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { ClassifiedError } from '../../../src/base/errors.ts';
import { ask } from '../../../src/os/http-client.ts';
import { proxyOf } from '../../../src/os/http-proxy.ts';
import { Authority } from '../../lib/certificates.ts';
import { HttpServers } from '../../lib/http-servers.ts';

const PROXY = 'http://proxy.test:3128';

describe('os/http-proxy', () => {
  const via = (url: string, noProxy: string, more: NodeJS.ProcessEnv = {}): string | undefined =>
    proxyOf(new URL(url), { HTTP_PROXY: PROXY, HTTPS_PROXY: 'https://secure.test', NO_PROXY: noProxy, ...more });

  it('takes what the environment names for the scheme', () => {
    expect(via('http://a.test/', '')).to.equal(PROXY);
    expect(via('https://a.test/', '')).to.equal('https://secure.test');
    expect(proxyOf(new URL('https://a.test/'), { HTTP_PROXY: PROXY })).to.equal(undefined);
    expect(proxyOf(new URL('http://a.test/'), { http_proxy: 'small.test:80', HTTPS_PROXY: PROXY })).to.equal('http://small.test:80');
    expect(proxyOf(new URL('http://a.test/'), { HTTP_PROXY: 'proxy.test:3128' })).to.equal('http://proxy.test:3128');
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
    for (const value of ['socks5://me:s3cret@proxy.test', 'http://', 'not a url'])
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

  it('asks it for a tunnel to what is https, verifies the host beyond, and tells of a refusal', async () => {
    const authority = new Authority(dir, 'proxied');
    const { certificate, key } = authority.sign('registry', { host: 'registry.test' });
    const registry = createHttpsServer({ cert: readFileSync(certificate), key: readFileSync(key) }, (_, response) => response.end('v2'));
    await new Promise<void>((resolve) => registry.listen(0, '127.0.0.1', resolve));
    servers.all.push(registry as never);
    const tunnels: Array<string | undefined> = [];
    let refuses = false;
    const proxy = await servers.start((_, response) => response.writeHead(500).end());
    servers.all.at(-1)?.on('connect', (request, socket) => {
      tunnels.push(request.url);
      if (refuses) return socket.end('HTTP/1.1 403 Forbidden\r\n\r\n');
      const to = connect((registry.address() as AddressInfo).port, '127.0.0.1', () => {
        socket.write('HTTP/1.1 200 OK\r\n\r\n');
        to.pipe(socket).pipe(to);
      });
      for (const end of [to, socket]) end.on('error', () => undefined);
    });
    process.env['HTTPS_PROXY'] = proxy;
    const host = { ...direct, ca: [authority.certificate] };
    const url = 'https://registry.test/v2/';
    const answer = await ask(host, { method: 'GET', url, headers: {}, signal });
    expect((await answer.body(10)).toString()).to.equal('v2');
    expect(tunnels).to.deep.equal(['registry.test:443']);
    const untrusted = await ask(direct, { method: 'GET', url, headers: {}, signal }).catch((error: unknown) => error);
    expect(untrusted).to.be.instanceOf(ClassifiedError).with.property('kind', 'unavailable');
    refuses = true;
    const refused = ask({ ...host, skipVerify: true }, { method: 'GET', url, headers: {}, signal });
    const error = (await refused.catch((failure: unknown) => failure)) as ClassifiedError;
    expect(error).to.be.instanceOf(ClassifiedError).with.property('kind', 'unavailable');
    expect(error.message).to.match(/^https:\/\/registry\.test: .*403/s);
  });
});
