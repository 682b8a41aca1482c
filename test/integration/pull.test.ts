import { expect } from 'chai';
import { execFileSync } from 'node:child_process';
import { createHash, randomBytes } from 'node:crypto';
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { gunzipSync } from 'node:zlib';
import { busyboxEntries, findProgram } from '../../hack/images/programs.ts';
import type { Format, Image } from '../../hack/images/image.ts';
import { imageOf } from '../../hack/images/image.ts';
import { push } from '../../hack/images/push.ts';
import type { Compression, Layer } from '../../hack/images/tree.ts';
import { digestOf, layerOf } from '../../hack/images/tree.ts';
import type { AuthConfig } from '../../src/gen/cri/runtime/v1/AuthConfig.ts';
import type { TarHeader } from '../../src/snapshot/tar/header.ts';
import { TarReader } from '../../src/snapshot/tar/reader.ts';
import { Bed, DEMO_IMAGE, eventually, PAUSE_IMAGE } from '../lib/bed.ts';
import { Authority } from '../lib/certificates.ts';
import type { Registry } from '../lib/docker-registry.ts';
import { startRegistry } from '../lib/docker-registry.ts';
import type { Proxy } from '../lib/proxy.ts';
import { startProxy } from '../lib/proxy.ts';
import { startTokenServer, TOKEN_ISSUER, TOKEN_SERVICE } from '../lib/token-server.ts';
import { size } from '../lib/size.ts';

const KILLS = size('PULL_KILLS', 12, 200);
const POD = { linux: { securityContext: { namespaceOptions: { pid: 'CONTAINER' as const } } } };
const CODE = { invalidArgument: 3, notFound: 5, permissionDenied: 7, failedPrecondition: 9, unavailable: 14, dataLoss: 15 };

type Failure = Error & { code: number; details: string };

/** Images from a real docker-registry. */
describe('pull', function () {
  this.timeout(120_000 + KILLS * 5000);
  const secrets: string[] = [];
  const account = { username: 'puller', password: `s3cret-${randomBytes(8).toString('hex')}` };
  const wrong = { username: 'puller', password: `wr0ng-${randomBytes(8).toString('hex')}` };
  let dir: string;
  let storage: string;
  let registry: Registry;
  /** Of the daemon's environment. */
  let outside: Proxy;
  let bed: Bed;

  before(async () => {
    secrets.push(...[account, wrong].flatMap((each) => [each.password, basic(each)]));
    dir = mkdtempSync(join(tmpdir(), 'gantry-pull-'));
    storage = join(dir, 'storage');
    registry = await startRegistry(storage);
    const config = join(dir, 'config.toml');
    writeFileSync(config, 'image.pinned = ["images.test/keep*"]\n');
    outside = await startProxy(registry.host, { prefix: 'http://far.test' });
    bed = await Bed.make({ subnet: 21, flags: ['--config', config], env: { HTTP_PROXY: outside.host, NO_PROXY: 'near.test' } });
  });
  after(async () => {
    await bed.end();
    await outside[Symbol.asyncDispose]();
    await registry[Symbol.asyncDispose]();
    rmSync(dir, { recursive: true });
  });

  const basic = ({ username, password }: { username: string; password: string }): string =>
    Buffer.from(`${username}:${password}`).toString('base64');
  /** Layers with a file `/<name>/<n>` each, of bytes that no other image has. */
  const layersOf = (name: string, { compression = 'gzip' as Compression, count = 2, sizeBytes = 2000 } = {}): Promise<Layer[]> =>
    Promise.all(Array.from({ length: count }, (_, at) => layerOf([{ path: `/${name}/${at}`, data: randomBytes(sizeBytes) }], compression)));
  /** Pushed as `<name>:1`. */
  const pushed = async (
    name: string,
    options: { compression?: Compression; format?: Format; indexed?: boolean; count?: number; sizeBytes?: number } = {},
  ): Promise<Image & { layers: readonly Layer[] }> => {
    const layers = await layersOf(name, options);
    const image = imageOf({ layers, ...(options.format ? { format: options.format } : {}), indexed: options.indexed === true });
    await push(`http://${registry.host}`, `${name}:1`, image);
    return { ...image, layers };
  };
  const pull = async (image: string, auth?: AuthConfig): Promise<string> =>
    (await bed.cri.image('pullImage', { image: { image }, ...(auth ? { auth } : {}) })).imageRef;
  const refused = async (image: string, auth?: AuthConfig): Promise<Failure> => {
    try {
      await pull(image, auth);
    } catch (error) {
      return error as Failure;
    }
    throw new Error(`${image} was pulled`);
  };
  const status = async (image: string) => (await bed.cri.image('imageStatus', { image: { image } })).image;
  const remove = (image: string) => bed.cri.image('removeImage', { image: { image } });
  const hosts = (host: string, toml: string): void => {
    const at = join(bed.gantry.dir, 'certs.d', host);
    mkdirSync(at, { recursive: true });
    writeFileSync(join(at, 'hosts.toml'), toml);
  };
  const namesIn = (...path: string[]): string[] => {
    const at = join(bed.gantry.root, ...path);
    return existsSync(at) ? readdirSync(at) : [];
  };
  /** What a pull is allowed to leave nothing of. */
  const leftovers = (): string[] => [
    ...namesIn('content', 'ingest'),
    ...readdirSync(join(bed.gantry.snapshots, 'tmp')),
    ...namesIn('images').filter((name) => !name.endsWith('.json')),
  ];
  const blobPath = (digest: string): string => join(bed.gantry.root, 'content', 'blobs', 'sha256', digest.slice('sha256:'.length));
  /** The file that one layer brought, unpacked or in the tar that is kept; undefined when there is none. */
  const unpacked = (path: string): Buffer | undefined => {
    const { snapshots } = bed.gantry;
    const names = (dir: string): string[] => (existsSync(join(snapshots, dir)) ? readdirSync(join(snapshots, dir)) : []);
    const found = names('layers')
      .map((name) => join(snapshots, 'layers', name, 'fs', path))
      .find((each) => existsSync(each));
    if (found !== undefined) return readFileSync(found);
    for (const name of names('tars')) {
      const content = fileInTar(join(snapshots, 'tars', name), path);
      if (content !== undefined) return content;
    }
    return undefined;
  };
  /** The file of every layer is there, byte for byte. */
  const expectWhole = (name: string, layers: readonly Layer[]): void => {
    for (const [at, { blob, compression }] of layers.entries()) {
      if (compression !== 'gzip') throw new Error('only for gzip');
      const tar = gunzipSync(blob);
      const file = unpacked(`${name}/${at}`);
      expect(file, `${name}/${at}`).to.not.equal(undefined);
      expect(tar.includes(file ?? ''), `${name}/${at} is what was pushed`).to.equal(true);
    }
  };

  describe('formats', () => {
    const cases: Array<[string, { compression: Compression; format: Format; indexed: boolean }]> = [
      ['oci-gzip', { compression: 'gzip', format: 'oci', indexed: false }],
      ['oci-zstd', { compression: 'zstd', format: 'oci', indexed: true }],
      ['oci-plain', { compression: 'none', format: 'oci', indexed: false }],
      ['docker-gzip', { compression: 'gzip', format: 'docker', indexed: true }],
      ['docker-plain', { compression: 'none', format: 'docker', indexed: false }],
    ];
    for (const [name, options] of cases) {
      it(`${name}${options.indexed ? ' in an index whose first entry is for another machine' : ''}, by tag and by digest`, async () => {
        const image = await pushed(`formats/${name}`, options);
        const top = image.manifests.at(-1)?.digest ?? '';
        const ref = `${registry.host}/formats/${name}`;
        expect(await pull(`${ref}:1`)).to.equal(image.imageId);
        expect(await status(`${ref}:1`)).to.deep.include({
          id: image.imageId,
          repoTags: [`${ref}:1`],
          repoDigests: [`${ref}@${top}`],
          pinned: false,
        });
        for (const at of [0, 1]) expect(unpacked(`formats/${name}/${at}`)?.length).to.equal(2000);
        await remove(image.imageId);
        expect(await pull(`${ref}@${top}`)).to.equal(image.imageId);
        expect(await status(`${ref}@${top}`)).to.deep.include({ id: image.imageId, repoTags: [], repoDigests: [`${ref}@${top}`] });
        expect(await pull(`${ref}:1@${top}`)).to.equal(image.imageId);
        expect(leftovers()).to.deep.equal([]);
      });
    }

    it('says so when an index has nothing for this machine', async () => {
      const image = await pushed('formats/foreign', { indexed: true });
      const index = JSON.parse(image.manifests.at(-1)?.body.toString() ?? '') as { manifests: object[]; mediaType: string };
      const body = Buffer.from(JSON.stringify({ ...index, manifests: index.manifests.slice(0, 1) }));
      await push(`http://${registry.host}`, 'formats/foreign:2', {
        ...image,
        manifests: [{ mediaType: index.mediaType, body, digest: digestOf(body) }],
      });
      const error = await refused(`${registry.host}/formats/foreign:2`);
      expect(error.code).to.equal(CODE.notFound);
      expect(error.details).to.match(/nothing for linux\/\w+; it has linux\/\w+/);
    });

    it('an image of 127 layers runs', async () => {
      const program = findProgram('busybox') ?? '';
      const base = await layerOf(await busyboxEntries(program));
      const others = await Promise.all(Array.from({ length: 126 }, (_, at) => layerOf([{ path: `/many/${at}`, data: `${at}\n` }])));
      const image = imageOf({ layers: [base, ...others] });
      await push(`http://${registry.host}`, 'formats/many:1', image);
      await pull(`${registry.host}/formats/many:1`);
      const config = bed.podConfig('many', POD);
      const pod = await bed.runPod(config);
      const command = ['sh', '-c', 'ls /many | wc -l; cat /many/0 /many/125; sleep 100'];
      await bed.runContainer(pod, config, { ...bed.containerConfig('c', '', { command }), image: { image: image.imageId } });
      await eventually('its output', () => bed.logOf('many', 'c') === '126\n0\n125\n');
      await bed.gantry.removePods();
    });

    it('a name or tag that is not there is not found, and a bad name is an invalid argument', async () => {
      const error = await refused(`${registry.host}/formats/oci-gzip:none`);
      expect(error.code).to.equal(CODE.notFound);
      expect(error.details).to.contain(registry.host).and.to.contain('MANIFEST_UNKNOWN');
      expect((await refused(`${registry.host}/no/such:1`)).code).to.equal(CODE.notFound);
      expect((await refused(`${registry.host}/UPPER:1`)).code).to.equal(CODE.invalidArgument);
    });
  });

  describe('credentials', () => {
    const htpasswd = (): string => {
      const path = join(dir, 'htpasswd');
      const salt = `$2b$05$${randomBytes(16).toString('hex').slice(0, 22)}`;
      const hash = execFileSync('perl', ['-e', 'print crypt($ENV{PASSWORD}, $ENV{SALT})'], {
        env: { ...process.env, PASSWORD: account.password, SALT: salt },
      });
      writeFileSync(path, `${account.username}:${hash.toString()}\n`);
      return path;
    };
    const expectDenied = (error: Failure, host: string): void => {
      expect(error.code).to.equal(CODE.permissionDenied);
      expect(error.details).to.contain(host).and.to.contain('401');
      for (const secret of secrets) expect(error.details).to.not.contain(secret);
    };

    it('basic: by user name and password, by auth, and not without', async () => {
      await using locked = await startRegistry(storage, { auth: { htpasswd: { realm: 'test', path: htpasswd() } } });
      const [one, two] = [await pushed('basic/one'), await pushed('basic/two')];
      expectDenied(await refused(`${locked.host}/basic/one:1`), locked.host);
      expectDenied(await refused(`${locked.host}/basic/one:1`, wrong), locked.host);
      expectDenied(await refused(`${locked.host}/basic/one:1`, { ...account, serverAddress: 'https://other.test' }), locked.host);
      expect(await pull(`${locked.host}/basic/one:1`, account)).to.equal(one.imageId);
      expect(await pull(`${locked.host}/basic/two:1`, { auth: basic(account), serverAddress: `http://${locked.host}` })).to.equal(
        two.imageId,
      );
      // What one may pull is not there for who may not ask for it (KEP-2535).
      expectDenied(await refused(`${locked.host}/basic/two:1`), locked.host);
      for (const auth of ['not base64!', Buffer.from('no-colon').toString('base64')]) {
        const error = await refused(`${locked.host}/basic/one:1`, { auth });
        expect(error.code).to.equal(CODE.invalidArgument);
        expect(error.details)
          .to.match(/^auth\.auth: /)
          .and.to.not.contain(auth);
      }
    });

    it('bearer: tokens of a token server, wrong password, nobody', async () => {
      const signer = new Authority(join(dir, 'tokens'), 'signer');
      await using tokens = await startTokenServer(signer, account);
      const token = { realm: tokens.url, service: TOKEN_SERVICE, issuer: TOKEN_ISSUER, rootcertbundle: signer.certificate };
      await using locked = await startRegistry(storage, { auth: { token } });
      const image = await pushed('bearer/app', { count: 5 });
      // Nobody gets a token too, and it opens nothing: that is tried once, not for ever.
      expectDenied(await refused(`${locked.host}/bearer/app:1`), locked.host);
      expect(tokens.given.length).to.be.lessThan(4);
      expectDenied(await refused(`${locked.host}/bearer/app:1`, wrong), new URL(tokens.url).host);
      tokens.given.length = 0;
      expect(await pull(`${locked.host}/bearer/app:1`, account)).to.equal(image.imageId);
      // One for all requests of the pull.
      expect(tokens.given).to.deep.equal([`${account.username} repository:bearer/app:pull`]);
    });

    it('they go to the registry alone: neither to a mirror nor along a redirect (S13)', async () => {
      await using locked = await startRegistry(storage, { auth: { htpasswd: { realm: 'test', path: htpasswd() } } });
      const image = await pushed('bound/app');
      await using elsewhere = await startProxy(registry.host);
      await using front = await startProxy(locked.host, {
        answer: (request, response) => {
          const isBlob = request.url?.includes('/blobs/') === true && request.headers.authorization !== undefined;
          if (isBlob) response.writeHead(307, { location: `http://${elsewhere.host}${request.url}` }).end();
          return isBlob;
        },
      });
      await using mirror = await startProxy(registry.host, {
        answer: (_request, response) => {
          response.writeHead(401, { 'www-authenticate': 'Basic realm="give me"' }).end();
          return true;
        },
      });
      hosts(front.host, `[host."http://${mirror.host}"]\nheader = { x-mirror = "yes" }\n`);
      expect(await pull(`${front.host}/bound/app:1`, account)).to.equal(image.imageId);
      expect(mirror.requests.length).to.be.greaterThan(0);
      expect(elsewhere.requests.length).to.equal(3);
      for (const { headers } of [...mirror.requests, ...elsewhere.requests]) expect(headers).to.not.have.property('authorization');
      for (const { headers } of elsewhere.requests) expect(headers).to.not.have.property('x-mirror');
      expect(front.requests.some(({ headers }) => headers.authorization === `Basic ${basic(account)}`)).to.equal(true);
    });

    it('no secret is in the log', () => {
      const log = readFileSync(bed.gantry.logPath, 'utf8');
      expect(log).to.contain('basic/one');
      for (const secret of secrets) expect(log.includes(secret)).to.equal(false);
    });
  });

  describe('hosts.toml', () => {
    it('asks mirrors in order for what they are capable of, with ns= and their headers, then the server', async () => {
      const image = await pushed('order/app', { indexed: true });
      await using blobsOnly = await startProxy(registry.host);
      await using empty = await startProxy(registry.host, {
        answer: (_request, response) => {
          response.writeHead(404).end();
          return true;
        },
      });
      await using server = await startProxy(registry.host);
      hosts(
        'order.test',
        [
          `server = "http://${server.host}"`,
          `[host."http://${blobsOnly.host}"]`,
          'capabilities = ["pull"]',
          `[host."http://${blobsOnly.host}".header]`,
          'x-mirror = ["a", "b"]',
          `[host."http://${empty.host}"]`,
          'capabilities = ["pull", "resolve"]',
        ].join('\n'),
      );
      expect(await pull('order.test/order/app:1')).to.equal(image.imageId);
      const paths = ({ requests }: { requests: ReadonlyArray<{ path: string }> }): string[] => requests.map(({ path }) => path);
      expect(paths(empty)).to.deep.equal(['/v2/order/app/manifests/1?ns=order.test']);
      expect(paths(server)).to.deep.equal(['/v2/order/app/manifests/1?ns=order.test']);
      expect(paths(blobsOnly)[0]).to.match(/^\/v2\/order\/app\/manifests\/sha256:[0-9a-f]{64}\?ns=order\.test$/);
      expect(paths(blobsOnly).filter((path) => path.includes('/blobs/sha256:') && path.endsWith('?ns=order.test'))).to.have.length(3);
      for (const { headers } of blobsOnly.requests) expect(headers).to.include({ 'x-mirror': 'a, b' });
      for (const { headers } of server.requests) expect(headers).to.not.have.property('x-mirror');
      expect((await status('order.test/order/app:1'))?.repoTags).to.deep.equal(['order.test/order/app:1']);
    });

    it('a dead or corrupting mirror is passed over, and the file is read anew at each pull', async () => {
      const [first, second] = [await pushed('dead/first', { count: 4 }), await pushed('dead/second')];
      await using corrupting = await startProxy(registry.host, { alter: corrupt });
      hosts('dead.test', `server = "http://${registry.host}"\n[host."http://127.0.0.1:1"]\n[host."http://${corrupting.host}"]\n`);
      const startedMs = Date.now();
      expect(await pull('dead.test/dead/first:1')).to.equal(first.imageId);
      expect(Date.now() - startedMs).to.be.lessThan(3000);
      expect(corrupting.requests.some(({ path }) => path.includes('/blobs/'))).to.equal(true);
      expectWhole('dead/first', first.layers);
      await using good = await startProxy(registry.host);
      corrupting.requests.length = 0;
      hosts('dead.test', `server = "http://127.0.0.1:1"\n[host."http://${good.host}"]\n`);
      expect(await pull('dead.test/dead/second:1')).to.equal(second.imageId);
      expect(good.requests.length).to.equal(4);
      expect(corrupting.requests).to.deep.equal([]);
      expect(leftovers()).to.deep.equal([]);
    });

    it('the proxy of the environment is asked for what is far away, and for nothing else', async () => {
      const { layers } = await pushed('proxied', { sizeBytes: 3_000_000 });
      hosts('far.test', 'server = "http://far.test"\n');
      hosts('near.test', 'server = "http://near.test"\n');
      expect(await pull('far.test/proxied:1')).to.match(/^sha256:/);
      const paths = outside.requests.map(({ path }) => path);
      for (const { digest } of layers) expect(paths).to.include(`http://far.test/v2/proxied/blobs/${digest}`);
      expect((await refused('near.test/proxied:1')).details).to.contain('http://near.test: getaddrinfo');
      expect(paths.filter((path) => !path.startsWith('http://far.test/'))).to.deep.equal([]);
      await bed.cri.image('removeImage', { image: { image: 'far.test/proxied:1' } });
    });
    it('override_path: the address is the whole prefix of the API', async () => {
      const image = await pushed('prefix/app');
      await using front = await startProxy(registry.host, { prefix: '/cache/team' });
      hosts('prefix.test', `server = "http://127.0.0.1:1"\n[host."http://${front.host}/cache/team/v2"]\noverride_path = true\n`);
      expect(await pull('prefix.test/prefix/app:1')).to.equal(image.imageId);
      expect(front.requests[0]?.path).to.equal('/cache/team/v2/prefix/app/manifests/1?ns=prefix.test');
      hosts('prefix.test', `server = "http://127.0.0.1:1"\n[host."http://${front.host}/cache/team"]\n`);
      await pushed('prefix/other');
      await pull('prefix.test/prefix/other:1');
      expect(front.requests.at(-1)?.path).to.match(/^\/cache\/team\/v2\//);
    });

    it('TLS: an unknown authority is refused; ca, skip_verify and client certificates', async () => {
      const authority = new Authority(join(dir, 'tls'), 'authority');
      const [server, client] = [authority.sign('server'), authority.sign('client')];
      await using tls = await startRegistry(storage, { tls: server });
      await using strict = await startRegistry(storage, { tls: { ...server, clientCa: authority.certificate } });
      const images = await Promise.all(['ca', 'skip', 'client'].map((name) => pushed(`tls/${name}`)));
      hosts(tls.host, `server = "https://${tls.host}"\n`);
      const unknown = await refused(`${tls.host}/tls/ca:1`);
      expect(unknown.code).to.equal(CODE.unavailable);
      expect(unknown.details)
        .to.contain(`https://${tls.host}`)
        .and.to.match(/certificate/);
      hosts(tls.host, `server = "https://${tls.host}"\nca = "${authority.certificate}"\n`);
      expect(await pull(`${tls.host}/tls/ca:1`)).to.equal(images[0]?.imageId);
      hosts(tls.host, `server = "https://${tls.host}"\nskip_verify = true\n`);
      expect(await pull(`${tls.host}/tls/skip:1`)).to.equal(images[1]?.imageId);
      const withCa = `server = "https://${strict.host}"\nca = ["${authority.certificate}"]\n`;
      hosts(strict.host, withCa);
      const nameless = await refused(`${strict.host}/tls/client:1`);
      expect(nameless.code).to.equal(CODE.unavailable);
      expect(nameless.details).to.contain(strict.host);
      hosts(strict.host, `${withCa}client = [["${client.certificate}", "${client.key}"]]\n`);
      expect(await pull(`${strict.host}/tls/client:1`)).to.equal(images[2]?.imageId);
    });

    it('a file that can not be understood is told with its key', async () => {
      hosts('broken.test', 'server = "http://127.0.0.1:1"\n[host."http://127.0.0.1:2"]\ncapabilties = ["pull"]\n');
      const error = await refused('broken.test/app:1');
      expect(error.code).to.equal(CODE.failedPrecondition);
      expect(error.details).to.contain('broken.test/hosts.toml').and.to.contain('capabilties');
    });

    it('short names are of docker.io, whose mirrors serve them', async () => {
      const [short, owned] = [await pushed('library/short'), await pushed('someone/owned')];
      hosts('docker.io', `server = "http://127.0.0.1:1"\n[host."http://${registry.host}"]\n`);
      expect(await pull('short:1')).to.equal(short.imageId);
      expect(await pull('someone/owned:1')).to.equal(owned.imageId);
      expect((await status('short:1'))?.repoTags).to.deep.equal(['docker.io/library/short:1']);
      expect((await status('docker.io/library/short:1'))?.id).to.equal(short.imageId);
      expect((await status('index.docker.io/someone/owned:1'))?.id).to.equal(owned.imageId);
    });
  });

  describe('damage', () => {
    const expectNothing = async (ref: string, image: { imageId: string }, layers: readonly Layer[]): Promise<void> => {
      expect(await status(ref)).to.equal(null);
      expect(await status(image.imageId)).to.equal(null);
      for (const { digest } of layers) expect(existsSync(blobPath(digest)), 'a damaged blob').to.equal(false);
      expect(leftovers()).to.deep.equal([]);
    };

    it('a blob that is not what its digest says', async () => {
      const image = await pushed('damage/digest', { count: 1 });
      await using proxy = await startProxy(registry.host, {
        alter: (path, body) => (path.includes(image.imageId) ? body : corrupt(path, body)),
      });
      const ref = `${proxy.host}/damage/digest:1`;
      const error = await refused(ref);
      expect(error.code).to.equal(CODE.dataLoss);
      expect(error.details).to.contain(image.layers[0]?.digest);
      await expectNothing(ref, image, image.layers);
    });

    it('a layer that always ends early', async () => {
      const image = await pushed('damage/short', { count: 1, sizeBytes: 200_000 });
      const layer = image.layers[0]?.digest ?? '';
      await using proxy = await startProxy(registry.host, { alter: (path, body) => (path.includes(layer) ? body.subarray(0, 10) : body) });
      const ref = `${proxy.host}/damage/short:1`;
      const error = await refused(ref);
      expect(error.code).to.equal(CODE.unavailable);
      expect(error.details).to.contain(proxy.host);
      await expectNothing(ref, image, image.layers);
    });

    it('a layer whose content is not its diffID, or is no whole archive', async () => {
      const [good, other] = (await layersOf('damage/content')) as [Layer, Layer];
      const cut = good.blob.subarray(0, good.blob.length - 40);
      const lies = [
        { ...good, diffId: other.diffId },
        { ...good, blob: cut, digest: digestOf(cut) },
        { ...good, blob: Buffer.from('no archive at all'), digest: digestOf('no archive at all'), compression: 'none' as const },
      ];
      for (const [at, lie] of lies.entries()) {
        const image = imageOf({ layers: [lie] });
        const ref = `${registry.host}/damage/content:${at}`;
        await push(`http://${registry.host}`, `damage/content:${at}`, image);
        const error = await refused(ref);
        expect(error.code, error.details).to.equal(CODE.dataLoss);
        expect(await status(ref)).to.equal(null);
        expect(leftovers()).to.deep.equal([]);
      }
    });
  });

  describe('names and removal', () => {
    it('two tags of one image, pulled at the same time; removing one removes the image, missing is ok', async () => {
      const image = await pushed('names/two');
      await push(`http://${registry.host}`, 'names/two:2', image);
      await push(`http://${registry.host}`, 'names/other:1', image);
      const refs = ['names/two:1', 'names/two:2', 'names/other:1'].map((name) => `${registry.host}/${name}`);
      expect(await Promise.all(refs.map((ref) => pull(ref)))).to.deep.equal(refs.map(() => image.imageId));
      const found = await status(refs[0] ?? '');
      expect(found?.repoTags).to.deep.equal([...refs].sort());
      expect(found?.repoDigests).to.have.length(2);
      const { images } = await bed.cri.image('listImages', { filter: { image: { image: refs[1] ?? '' } } });
      expect(images.map(({ id }: { id: string }) => id)).to.deep.equal([image.imageId]);
      expect((await bed.cri.image('listImages', { filter: { image: { image: `${registry.host}/none:1` } } })).images).to.deep.equal([]);
      const all = (await bed.cri.image('listImages', {})).images;
      expect(all.filter(({ id }: { id: string }) => id === image.imageId)).to.have.length(1);
      expect((await status(image.imageId.slice(7, 19)))?.id).to.equal(image.imageId);
      // The CRI's RemoveImage takes the whole image, whichever name it is given.
      await remove(refs[1] ?? '');
      for (const ref of [...refs, image.imageId]) expect(await status(ref)).to.equal(null);
      await remove(refs[1] ?? '');
      await remove(image.imageId);
      await remove(`${registry.host}/never/pulled:1`);
    });

    it('a tag that has moved moves with the next pull; the old image stays under its digest', async () => {
      const old = await pushed('names/moved');
      const ref = `${registry.host}/names/moved`;
      await pull(`${ref}:1`);
      const now = await pushed('names/moved');
      expect((await status(`${ref}:1`))?.id).to.equal(old.imageId);
      expect(await pull(`${ref}:1`)).to.equal(now.imageId);
      expect((await status(`${ref}:1`))?.id).to.equal(now.imageId);
      expect(await status(old.imageId)).to.deep.include({ repoTags: [], repoDigests: [`${ref}@${old.manifests[0]?.digest}`] });
    });

    it('ImageStatus: size, user and, verbose, chain id and the config as it was pushed', async () => {
      const layers = await layersOf('names/verbose');
      const image = imageOf({ layers, process: { User: '1000:1000', Env: ['A=b'], Entrypoint: ['/x'] } });
      await push(`http://${registry.host}`, 'names/verbose:1', image);
      const ref = `${registry.host}/names/verbose:1`;
      await pull(ref);
      const { image: found, info } = await bed.cri.image('imageStatus', { image: { image: ref }, verbose: true });
      const config = image.blobs.get(image.imageId) ?? Buffer.alloc(0);
      expect(found).to.deep.include({ uid: { value: '1000' }, username: '' });
      expect(Number(found?.size)).to.equal(config.length + layers.reduce((sum, { blob }) => sum + blob.length, 0));
      const { chainID, imageSpec } = JSON.parse(String(info['info'])) as { chainID: string; imageSpec: unknown };
      const chain = createHash('sha256').update(`${layers[0]?.diffId} ${layers[1]?.diffId}`).digest('hex');
      expect(chainID).to.equal(`sha256:${chain}`);
      expect(imageSpec).to.deep.equal(JSON.parse(config.toString()));
      expect((await bed.cri.image('imageStatus', { image: { image: ref } })).info).to.deep.equal({});
    });

    it('ImageFsInfo grows and shrinks with what is kept', async () => {
      const usage = async (): Promise<number> => {
        const { imageFilesystems } = await bed.cri.image('imageFsInfo', {});
        const [one] = imageFilesystems;
        expect(existsSync(one?.fsId?.mountpoint ?? '')).to.equal(true);
        expect(Number(one?.inodesUsed?.value)).to.be.greaterThan(0);
        expect(Math.abs(Date.now() - Number(BigInt(one?.timestamp ?? 0) / 1_000_000n))).to.be.lessThan(10_000);
        return Number(one?.usedBytes?.value);
      };
      const before = await usage();
      const image = await pushed('names/large', { count: 1, sizeBytes: 3_000_000 });
      await pull(`${registry.host}/names/large:1`);
      const grown = (await usage()) - before;
      // The blob and what was unpacked of it.
      expect(grown).to.be.within(6_000_000, 7_000_000);
      await remove(image.imageId);
      await eventually('the space is free', async () => (await usage()) - before < 100_000);
      expect(unpacked('names/large/0')).to.equal(undefined);
      expect(existsSync(blobPath(image.layers[0]?.digest ?? ''))).to.equal(false);
    });

    it('the log tells what came, and how long the event loop stood still meanwhile', async () => {
      const image = await pushed('names/logged', { sizeBytes: 3_000_000 });
      await pull(`${registry.host}/names/logged:1`);
      const line = readFileSync(bed.gantry.logPath, 'utf8')
        .split('\n')
        .find((each) => each.includes('pulled') && each.includes('names/logged:1'));
      expect(line).to.contain(image.layers[0]?.digest.slice(0, 19));
      expect(line).to.match(/eventLoopStallMs\W+\d/);
    });

    it('a container goes on with an image that was removed, and what it stands on goes after it', async () => {
      const base = await layerOf([...(await busyboxEntries(findProgram('busybox') ?? '')), { path: '/marked', data: 'used\n' }]);
      await push(`http://${registry.host}`, 'names/used:1', imageOf({ layers: [base] }));
      const ref = `${registry.host}/names/used:1`;
      await pull(ref);
      const config = bed.podConfig('used', POD);
      const pod = await bed.runPod(config);
      const script = 'while ! [ -e /go ]; do sleep 0.1; done; cat /marked; sleep 100';
      const id = await bed.runContainer(pod, config, { ...bed.containerConfig('c', script), image: { image: ref } });
      await remove(ref);
      expect(await status(ref)).to.equal(null);
      await sleep(300);
      expect((await bed.status(id)).state).to.equal('CONTAINER_RUNNING');
      const { exitCode } = await bed.cri.runtime('execSync', { containerId: id, cmd: ['touch', '/go'], timeout: '10' });
      expect(exitCode).to.equal(0);
      await eventually('it reads its files', () => bed.logOf('used', 'c') === 'used\n');
      expect(unpacked('marked')?.toString()).to.equal('used\n');
      await bed.gantry.removePods();
      await eventually('its layer is gone', () => unpacked('marked') === undefined);
    });

    it('images that share layers and come and go at the same time are whole whenever they are there', async () => {
      const shared = await layersOf('crowd/shared', { count: 2 });
      const images = await Promise.all(
        Array.from({ length: 5 }, async (_, at) => {
          const own = await layersOf(`crowd/${at}`, { count: 2 });
          const image = imageOf({ layers: [...shared, ...own] });
          await push(`http://${registry.host}`, `crowd/${at}:1`, image);
          return { ref: `${registry.host}/crowd/${at}:1`, name: `crowd/${at}`, own, ...image };
        }),
      );
      const lane = async (seed: number): Promise<void> => {
        for (let step = 0; step < 8; step++) {
          const image = images[(seed * 7 + step * 3) % images.length];
          if (image === undefined) throw new Error('no image');
          if ((seed + step) % 3 === 0) await remove(image.imageId);
          else expect(await pull(image.ref)).to.equal(image.imageId);
        }
      };
      await Promise.all([0, 1, 2, 3].map(lane));
      for (const { ref, name, own, blobs, imageId } of images) {
        if ((await status(ref)) === null) await pull(ref);
        expectWhole('crowd/shared', shared);
        expectWhole(name, own);
        for (const digest of [imageId, ...blobs.keys()]) expect(existsSync(blobPath(digest))).to.equal(true);
      }
      expect(leftovers()).to.deep.equal([]);
    });

    it('the pause image and configured references are pinned, and stay', async () => {
      hosts('images.test', readFileSync(join(bed.gantry.dir, 'certs.d', 'images.test', 'hosts.toml'), 'utf8'));
      await pull(PAUSE_IMAGE);
      expect(await status(PAUSE_IMAGE)).to.include({ pinned: true });
      expect(await status(DEMO_IMAGE)).to.include({ pinned: false });
      const keep = await pushed('keep');
      hosts('images.test', `server = "http://127.0.0.1:1"\n[host."http://${registry.host}"]\n`);
      await pull('images.test/keep:1');
      expect(await status('images.test/keep:1')).to.include({ pinned: true });
      for (const ref of [PAUSE_IMAGE, 'images.test/keep:1', keep.imageId]) {
        const error = await remove(ref).then(
          () => undefined,
          (failure: unknown) => failure as Failure,
        );
        expect(error?.code).to.equal(CODE.failedPrecondition);
        expect(error?.details).to.contain('pinned');
      }
      const { images } = await bed.cri.image('listImages', {});
      expect(images.filter(({ pinned }: { pinned: boolean }) => pinned)).to.have.length(2);
    });
  });

  describe('kills', () => {
    it(`SIGKILL at ${KILLS} points of a pull: no image or a whole one, no leftovers, and the next pull works (R9)`, async () => {
      const image = await pushed('kill/app', { count: 6, sizeBytes: 1_500_000 });
      const ref = `${registry.host}/kill/app:1`;
      const startedMs = Date.now();
      await pull(ref);
      const wholeMs = Date.now() - startedMs;
      await remove(ref);
      const seen = { absent: 0, whole: 0 };
      for (let at = 0; at < KILLS; at++) {
        await eventually('nothing is left of it', () => unpacked('kill/app/0') === undefined && !existsSync(blobPath(image.imageId)));
        const pulling = pull(ref).catch(() => undefined);
        await sleep(((at + Math.random()) / KILLS) * wholeMs * 1.1);
        await bed.gantry.kill();
        await pulling;
        await bed.gantry.start();
        const found = await status(ref);
        if (found === null) seen.absent++;
        else {
          seen.whole++;
          expect(found.id).to.equal(image.imageId);
          expectWhole('kill/app', image.layers);
        }
        expect(leftovers()).to.deep.equal([]);
        expect(await pull(ref)).to.equal(image.imageId);
        expectWhole('kill/app', image.layers);
        await remove(ref);
      }
      expect(seen.absent).to.be.greaterThan(0);
      process.stdout.write(`      of ${KILLS} kills within ${wholeMs} ms: ${seen.absent} without an image, ${seen.whole} with\n`);
    });
  });

  describe('at the end', () => {
    it('nothing is kept but what images name', async () => {
      const { images } = await bed.cri.image('listImages', {});
      expect(namesIn('content', 'blobs', 'sha256').length).to.be.greaterThan(0);
      for (const { id, pinned } of images as Array<{ id: string; pinned: boolean }>) if (!pinned) await remove(id);
      const named = namesIn('images').flatMap((name) => {
        const record = JSON.parse(readFileSync(join(bed.gantry.root, 'images', name), 'utf8')) as { blobs: string[]; chainIds: string[] };
        return [record.blobs, record.chainIds];
      });
      const blobs = new Set(named.filter((_, at) => at % 2 === 0).flat());
      const layers = new Set(named.filter((_, at) => at % 2 === 1).flat());
      await eventually('blobs and layers of no image are gone', () => {
        const kept = namesIn('content', 'blobs', 'sha256').length + readdirSync(join(bed.gantry.snapshots, 'layers')).length;
        return kept === blobs.size + layers.size;
      });
      expect(leftovers()).to.deep.equal([]);
    });
  });
});

function fileInTar(tarPath: string, path: string): Buffer | undefined {
  let tar: Buffer;
  try {
    tar = readFileSync(tarPath);
  } catch {
    // It went while we looked.
    return undefined;
  }
  let found: Buffer | undefined;
  const entry = ({ name, sizeBytes }: TarHeader, offset: number): void => {
    if (name === path) found = tar.subarray(offset, offset + sizeBytes);
  };
  new TarReader({ entry, data: () => undefined, endEntry: () => undefined }).push(tar);
  return found;
}

/** The last byte is another. */
function corrupt(path: string, body: Buffer): Buffer {
  if (!path.includes('/blobs/') || body.length === 0) return body;
  const changed = Buffer.from(body);
  changed[changed.length - 1] = (changed.at(-1) ?? 0) ^ 1;
  return changed;
}
