import { expect } from 'chai';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import type { IncomingMessage, RequestListener, ServerResponse } from 'node:http';
import { createServer as createTcpServer } from 'node:net';
import type { AddressInfo, Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { setTimeout as sleep } from 'node:timers/promises';
import { digestOf } from '../../../src/base/digest.ts';
import { ClassifiedError } from '../../../src/base/errors.ts';
import { newOp } from '../../../src/base/op.ts';
import type { Answer } from '../../../src/os/http-client.ts';
import { askInto } from '../../../src/os/http-client.ts';
import type { Credentials } from '../../../src/registry/auth.ts';
import { Authorizer, parseChallenges } from '../../../src/registry/auth.ts';
import type { BlobSink } from '../../../src/registry/blob-fetch.ts';
import { RepositoryClient } from '../../../src/registry/client.ts';
import type { RegistryHost } from '../../../src/registry/hosts.ts';
import { hostsOf } from '../../../src/registry/hosts.ts';
import { HttpServers } from '../../lib/http-servers.ts';

const manifest = Buffer.from('{"schemaVersion":2}');
const blob = Buffer.alloc(300_000, 'layer');
const descriptor = { digest: digestOf(blob), sizeBytes: blob.length };
const credentials: Credentials = { username: 'me', password: 's3cret', identityToken: '', registryToken: '' };

describe('registry', () => {
  let dir: string;
  const servers = new HttpServers();
  const serve = (listener: RequestListener): Promise<string> => servers.start(listener);
  const client = (registry: string, creds?: Credentials): RepositoryClient =>
    new RepositoryClient({ hostsDir: dir, registry, repository: 'a/b', credentials: creds });
  const getManifest = (from: RepositoryClient, reference = 'v1'): ReturnType<RepositoryClient['manifest']> =>
    from.manifest(newOp('t', { timeoutMs: 20_000 }), reference, { accept: ['x/y'], maxBytes: 1000 });
  const getBlob = async (from: RepositoryClient): Promise<{ bytes: Buffer; begun: number }> => {
    let bytes = Buffer.alloc(0);
    let begun = 0;
    const begin = async (): Promise<BlobSink> => {
      bytes = Buffer.alloc(blob.length);
      begun++;
      return {
        ask: askInto((chunk, at) => void bytes.set(chunk, at)),
        took: () => undefined,
        commit: async () => {
          if (!bytes.equals(blob)) throw new ClassifiedError('dataLoss', 'not the blob');
        },
      };
    };
    await from.blob(newOp('t', { timeoutMs: 20_000 }), { ...descriptor, begin });
    return { bytes, begun };
  };
  const hosts = (registry: string, text: string): void => {
    mkdirSync(join(dir, registry), { recursive: true });
    writeFileSync(join(dir, registry, 'hosts.toml'), text);
  };
  const serveManifest = (_request: IncomingMessage, response: ServerResponse): void => {
    response.setHeader('content-type', 'x/y; charset=utf-8');
    response.end(manifest);
  };

  beforeEach(() => (dir = mkdtempSync(join(tmpdir(), 'gantry-hosts-'))));
  afterEach(() => {
    rmSync(dir, { recursive: true });
    servers.end();
  });

  it('gets a manifest and verifies a digest', async () => {
    const host = await serve(serveManifest);
    expect(await getManifest(client(host))).to.deep.equal({ mediaType: 'x/y', digest: digestOf(manifest), bytes: manifest });
    const error = await getManifest(client(host), digestOf('other')).catch((e: unknown) => e);
    expect(error).to.have.property('kind', 'dataLoss');
  });

  it('tells what the registry said, under the right kind', async () => {
    const host = await serve((_request, response) => {
      response.statusCode = 404;
      response.end('{"errors":[{"code":"MANIFEST_UNKNOWN","message":"no such tag"}]}');
    });
    const error = (await getManifest(client(host)).catch((e: unknown) => e)) as Error & { kind: string };
    expect(error.kind).to.equal('notFound');
    expect(error.message).to.contain(`${host}/v2/a/b/manifests/v1: 404 MANIFEST_UNKNOWN: no such tag`);
  });

  it('answers basic and bearer challenges, with credentials and without', async () => {
    const basicHost = await serve((request, response) => {
      if (request.headers.authorization === `Basic ${Buffer.from('me:s3cret').toString('base64')}`) return serveManifest(request, response);
      response.writeHead(401, { 'www-authenticate': 'Basic realm="x"' }).end();
    });
    expect((await getManifest(client(basicHost, credentials))).bytes).to.deep.equal(manifest);
    const refused = (await getManifest(client(basicHost)).catch((e: unknown) => e)) as Error & { kind: string };
    expect(refused.kind).to.equal('permissionDenied');

    const asked: string[] = [];
    const bearerHost = await serve((request, response) => {
      if (request.url?.startsWith('/token')) {
        asked.push(`${request.url} ${request.headers.authorization ?? ''}`);
        return void response.end('{"token":"t0ken","expires_in":300}');
      }
      if (request.headers.authorization === 'Bearer t0ken') return serveManifest(request, response);
      response.writeHead(401, { 'www-authenticate': `Bearer realm="http://${request.headers.host}/token",service="reg"` }).end();
    });
    const from = client(bearerHost, credentials);
    await getManifest(from);
    await getManifest(from);
    expect(asked).to.deep.equal([
      `/token?service=reg&scope=repository%3Aa%2Fb%3Apull Basic ${Buffer.from('me:s3cret').toString('base64')}`,
    ]);
    const wrong = (await getManifest(client(basicHost, { ...credentials, password: 'wr0ng' })).catch((e: unknown) => e)) as Error;
    expect(wrong.message).to.not.contain('wr0ng');
  });

  it('does not take credentials along to another host (S13)', async () => {
    const seen: Array<string | undefined> = [];
    const other = await serve((request, response) => {
      seen.push(request.headers.authorization);
      response.end(blob);
    });
    const host = await serve((request, response) => {
      if (request.headers.authorization === undefined) response.writeHead(401, { 'www-authenticate': 'Basic realm="x"' }).end();
      else response.writeHead(307, { location: `http://${other}/elsewhere` }).end();
    });
    expect((await getBlob(client(host, credentials))).bytes.equals(blob)).to.equal(true);
    expect(seen).to.deep.equal([undefined]);
  });

  it('asks mirrors first with ns=, without the credentials, and goes on to the server (R35)', async () => {
    const asked: string[] = [];
    const mirror = await serve((request, response) => {
      asked.push(`mirror ${request.url} ${request.headers.authorization ?? '-'} ${request.headers['x-mirror']}`);
      response.statusCode = 404;
      response.end();
    });
    const server = await serve((request, response) => {
      asked.push(`server ${request.url}`);
      serveManifest(request, response);
    });
    hosts(
      'reg.example',
      `server = "http://${server}/prefix"\noverride_path = true\n[host."http://127.0.0.1:1"]\n[host."http://${mirror}"]\ncapabilities = ["pull", "resolve"]\n[host."http://${mirror}".header]\nx-mirror = "yes"\n`,
    );
    await getManifest(client('reg.example', credentials));
    expect(asked).to.deep.equal(['mirror /v2/a/b/manifests/v1?ns=reg.example - yes', 'server /prefix/a/b/manifests/v1?ns=reg.example']);
  });

  it('tries again after 429 and 5xx, and goes on where a connection broke (P4, P6)', async () => {
    let tries = 0;
    const ranges: Array<string | undefined> = [];
    const host = await serve((request, response) => {
      tries++;
      if (tries === 1) return void response.writeHead(429).end();
      if (tries === 2) return void response.writeHead(503).end();
      ranges.push(request.headers.range);
      const from = Number(/bytes=(\d+)-/.exec(request.headers.range ?? '')?.[1] ?? 0);
      response.writeHead(from > 0 ? 206 : 200, { 'content-length': blob.length - from });
      if (tries > 3) return void response.end(blob.subarray(from));
      response.write(blob.subarray(0, 100_000), () => setTimeout(() => response.destroy(), 50));
    });
    const { bytes, begun } = await getBlob(client(host));
    expect(bytes.equals(blob)).to.equal(true);
    expect(begun).to.equal(1);
    expect(ranges).to.deep.equal([undefined, 'bytes=100000-']);
  });

  it('leaves a connection that stopped in the middle, and goes on; a slow disk of ours is no stall (R35)', async () => {
    const ranges: Array<string | undefined> = [];
    const host = await serve((request, response) => {
      ranges.push(request.headers.range);
      const from = Number(/bytes=(\d+)-/.exec(request.headers.range ?? '')?.[1] ?? 0);
      response.writeHead(from > 0 ? 206 : 200, { 'content-length': blob.length - from });
      if (from > 0) response.end(blob.subarray(from));
      else response.write(blob.subarray(0, 100_000));
    });
    const options = { hostsDir: dir, registry: host, repository: 'a/b', credentials: undefined, stallMs: 200 };
    expect((await getBlob(new RepositoryClient(options))).bytes.equals(blob)).to.equal(true);
    expect(ranges).to.deep.equal([undefined, 'bytes=100000-']);
    const whole = await serve((_request, response) => void response.end(blob));
    let written = 0;
    const begin = async (): Promise<BlobSink> => ({
      ask: askInto(() => {
        // Our disk is slow.
        if (written === 0) Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 400);
      }),
      took: (bytes) => void (written += bytes),
      commit: async () => undefined,
    });
    await new RepositoryClient({ ...options, registry: whole }).blob(newOp('t'), { ...descriptor, begin });
    expect(written).to.equal(blob.length);
  });

  it('gets tokens for an identity token, sends a registry token as it is, and neither in the clear to another host', async () => {
    const asked: string[] = [];
    let realm = '';
    const host = await serve((request, response) => {
      if (request.headers.authorization === 'Bearer acc3ss' || request.headers.authorization === 'Bearer r3gistry')
        return serveManifest(request, response);
      if (request.url?.startsWith('/token')) {
        void text(request).then((body) => {
          asked.push(`${request.method} ${body}`);
          response.end('{"access_token":"acc3ss"}');
        });
        return;
      }
      response.writeHead(401, { 'www-authenticate': `Bearer realm="${realm}",service="reg"` }).end();
    });
    realm = `http://${host}/token`;
    const only = { username: '', password: '', identityToken: '', registryToken: '' };
    await getManifest(client(host, { ...only, identityToken: '1dentity' }));
    expect(asked).to.deep.equal([
      'POST service=reg&scope=repository%3Aa%2Fb%3Apull&grant_type=refresh_token&client_id=gantry&refresh_token=1dentity',
    ]);
    await getManifest(client(host, { ...only, registryToken: 'r3gistry' }));
    expect(asked).to.have.length(1);
    realm = `http://localhost:${host.split(':')[1]}/token`;
    for (const secret of [{ ...only, identityToken: '1dentity' }, credentials]) {
      const error = (await getManifest(client(host, secret)).catch((e: unknown) => e)) as Error & { kind: string };
      expect(error.kind).to.equal('permissionDenied');
      expect(error.message).to.contain('is not on https');
    }
    expect(asked).to.have.length(1);
    // With nothing to lose it may be asked, unless the registry itself is on https.
    await getManifest(client(host));
    expect(asked).to.have.length(2);
    const answer = { headers: { 'www-authenticate': `Bearer realm="${realm}"` } } as unknown as Answer;
    const over = { ...(hostsOf(dir, host)[0] as RegistryHost), url: 'https://registry.test/v2' };
    const error = await new Authorizer(undefined).challenge(over, 's', answer, newOp('t').signal).catch((e: unknown) => e);
    expect(error).to.have.property('kind', 'permissionDenied');
    expect(asked).to.have.length(2);
  });

  it('goes on where a host does not know ranges by passing over what it has', async () => {
    let tries = 0;
    const host = await serve((_request, response) => {
      response.writeHead(200, { 'content-length': blob.length });
      if (++tries > 1) return void response.end(blob);
      response.write(blob.subarray(0, 100_000), () => setTimeout(() => response.destroy(), 50));
    });
    const { bytes, begun } = await getBlob(client(host));
    expect(bytes.equals(blob)).to.equal(true);
    expect(begun).to.equal(1);
  });

  it('reads hosts.toml strictly, names what is wrong, and falls back to _default', () => {
    hosts('bad.example', 'sever = "x"\n');
    expect(() => hostsOf(dir, 'bad.example')).to.throw(`${dir}/bad.example/hosts.toml: sever: unknown key`);
    hosts('toml.example', 'server = \n');
    for (const [key, value] of [
      ['skip_verify', '"true"'],
      ['capabilities', '["pul"]'],
      ['dial_timeout', '"soon"'],
    ] as const) {
      hosts('value.example', `[host."https://m.example"]\n${key} = ${value}\n`);
      expect(() => hostsOf(dir, 'value.example')).to.throw(`host."https://m.example".${key}: `);
    }
    expect(() => hostsOf(dir, 'toml.example')).to.throw('toml.example/hosts.toml: ');
    hosts('_default', '[host."https://m.example"]\nskip_verify = true\nca = "ca.pem"\nclient = [["c.pem", "k.pem"]]\n');
    const [first, second] = hostsOf(dir, 'any.example');
    expect(first).to.deep.include({
      url: 'https://m.example/v2',
      skipVerify: true,
      namespace: 'any.example',
      ca: [join(dir, '_default', 'ca.pem')],
    });
    expect(first?.client).to.deep.equal([[join(dir, '_default', 'c.pem'), join(dir, '_default', 'k.pem')]]);
    expect(second).to.deep.include({ url: 'https://any.example/v2', namespace: undefined });
    mkdirSync(join(dir, 'docker.example'));
    for (const name of ['ca.crt', 'me.cert', 'me.key', 'alone.cert']) writeFileSync(join(dir, 'docker.example', name), '');
    rmSync(join(dir, '_default'), { recursive: true });
    expect(hostsOf(dir, 'docker.example')).to.have.length(1);
    expect(hostsOf(dir, 'docker.example')[0]).to.deep.include({
      ca: [join(dir, 'docker.example', 'ca.crt')],
      client: [[join(dir, 'docker.example', 'me.cert'), join(dir, 'docker.example', 'me.key')]],
    });
    expect(hostsOf('/nowhere', 'docker.io').map(({ url }) => url)).to.deep.equal(['https://registry-1.docker.io/v2']);
  });

  it('tries a token once that opens nothing, though the token server gives out new ones for ever', async () => {
    let given = 0;
    const host = await serve((request, response) => {
      if (request.url?.startsWith('/token')) return void response.end(`{"token":"t${++given}"}`);
      response
        .writeHead(401, { 'www-authenticate': `Bearer realm="http://${request.headers.host}/token",error="insufficient_scope"` })
        .end();
    });
    const error = await getManifest(client(host, credentials)).catch((e: unknown) => e);
    expect(error).to.have.property('kind', 'permissionDenied');
    expect(given).to.equal(1);
    const babbling = await serve((request, response) => {
      if (request.url?.startsWith('/token')) return void response.end('<html>');
      response.writeHead(401, { 'www-authenticate': `Bearer realm="http://${request.headers.host}/token"` }).end();
    });
    const other = (await getManifest(client(babbling)).catch((e: unknown) => e)) as Error & { kind: string };
    expect(other.kind).to.equal('unavailable');
    expect(other.message).to.contain('its answer has no token');
  });

  it('gives up a connection whose answer nobody wants and that does not end: of a challenge, of a redirect', async () => {
    const ended: string[] = [];
    const endless = (response: ServerResponse, path: string): void => {
      response.write('x');
      const more = setInterval(() => response.write(Buffer.alloc(10_000)), 5);
      response.on('close', () => {
        clearInterval(more);
        ended.push(path);
      });
    };
    const host = await serve((request, response) => {
      const { url = '', headers } = request;
      if (url.startsWith('/elsewhere')) return serveManifest(request, response);
      if (headers.authorization === undefined) {
        endless(response.writeHead(401, { 'www-authenticate': 'Basic realm="r"' }), 'challenge');
      } else endless(response.writeHead(307, { location: '/elsewhere' }), 'redirect');
    });
    expect((await getManifest(client(host, credentials))).digest).to.equal(digestOf(manifest));
    for (let n = 0; ended.length < 2 && n < 100; n++) await sleep(20);
    expect(ended.sort()).to.deep.equal(['challenge', 'redirect']);
  });

  it('asks the next host for what one serves corrupted, but not when our own disk fails', async () => {
    let asked = 0;
    const corrupting = await serve((_request, response) => {
      asked++;
      response.end(Buffer.alloc(blob.length));
    });
    const good = await serve((_request, response) => void response.end(blob));
    hosts('two.example', `server = "http://${good}"\n[host."http://${corrupting}"]\n`);
    expect((await getBlob(client('two.example'))).begun).to.equal(2);
    asked = 0;
    const full = Object.assign(new Error('no space left on device'), { code: 'ENOSPC' });
    const begin = async (): Promise<never> => Promise.reject(full);
    expect(
      await client('two.example')
        .blob(newOp('t'), { ...descriptor, begin })
        .catch((e: unknown) => e),
    ).to.equal(full);
    expect(asked).to.equal(0);
  });

  it('waits for a silent host as long as dial_timeout says, once, and then asks it last', async () => {
    const good = await serve((request, response) =>
      request.url?.includes('blobs') ? void response.end(blob) : serveManifest(request, response),
    );
    // It takes connections and never says a word of TLS.
    const silent = createTcpServer();
    const held: Socket[] = [];
    await new Promise<void>((resolve) => silent.listen(0, '127.0.0.1', resolve));
    silent.on('connection', (socket) => held.push(socket));
    const { port } = silent.address() as AddressInfo;
    hosts('slow.example', `server = "http://${good}"\n[host."https://127.0.0.1:${port}"]\ndial_timeout = "300ms"\n`);
    const from = client('slow.example');
    const startedMs = Date.now();
    await getManifest(from);
    await getBlob(from);
    await getBlob(from);
    expect(Date.now() - startedMs).to.be.within(280, 900);
    expect(held).to.have.length(1);
    for (const socket of held) socket.destroy();
    silent.close();
  });

  it('reads challenges', () => {
    const bearer = parseChallenges('Bearer realm="https://a/t",service="s,x",scope="r:p:pull"').get('bearer');
    expect(Object.fromEntries(bearer ?? [])).to.deep.equal({ realm: 'https://a/t', service: 's,x', scope: 'r:p:pull' });
    expect([...parseChallenges('Basic realm="x"').keys()]).to.deep.equal(['basic']);
  });
});
