import { existsSync, mkdirSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { execa } from 'execa';
import type { Image } from './image.ts';
import { ARCHITECTURE, imageOf } from './image.ts';
import { busyboxEntries, findProgram, merged, programEntries } from './programs.ts';
import type { Compression, Entry, Layer } from './tree.ts';
import { layerOf } from './tree.ts';

/** Where what is fetched and compiled for the images may lie. */
export interface Workshop {
  readonly dir: string;
}

/**
 * The images that critest pulls, made of this machine's own programs, by repository:tag without the registry host.
 * What each spec needs of its image is said where it is made; formats, compressions and indexes are mixed on purpose.
 */
export async function standIns(shop: Workshop): Promise<Map<string, Image>> {
  const base = await baseEntries(shop);
  const layers = new Map<string, Layer>();
  const baseLayer = async (compression: Compression = 'gzip'): Promise<Layer> => {
    const layer = layers.get(compression) ?? (await layerOf(base, compression));
    layers.set(compression, layer);
    return layer;
  };
  const marked = async (name: string, compression: Compression = 'gzip'): Promise<Layer> =>
    layerOf([{ path: `/etc/stand-in`, data: `${name}\n` }], compression);
  const images = new Map<string, Image>();

  await addPause(images, shop);
  images.set(
    'e2e-test-images/busybox:1.29-2',
    imageOf({ layers: [await baseLayer()], process: { Cmd: ['sh'] }, format: 'docker', indexed: true }),
  );
  images.set('e2e-test-images/nginx:1.14-2', await nginxImage(shop, await baseLayer(), 80));
  images.set(`k8s-staging-cri-tools/hostnet-nginx-${ARCHITECTURE}`, await nginxImage(shop, await baseLayer(), 12003));
  images.set('e2e-test-images/httpd:2.4.39-4', await httpdImage(await baseLayer()));
  images.set('e2e-test-images/nonewprivs:1.3', await effectiveUidImage(shop, await baseLayer('zstd')));

  const staging = 'k8s-staging-cri-tools/test-image-';
  const test = async (
    name: string,
    options: { compression?: Compression; format?: 'oci' | 'docker'; indexed?: boolean } = {},
  ): Promise<Image> =>
    imageOf({
      layers: [await baseLayer(options.compression), await marked(name, options.compression)],
      process: { Cmd: ['sh', '-c', 'sleep 1000'] },
      format: options.format ?? 'oci',
      indexed: options.indexed === true,
    });
  images.set(`${staging}latest:latest`, await test('latest', { indexed: true }));
  images.set(`${staging}tag:test`, await test('tag-test', { format: 'docker' }));
  images.set(`${staging}tag:all`, await test('tag-all'));
  images.set(`${staging}digest:latest`, await test('digest', { format: 'docker', indexed: true }));
  images.set(`${staging}1:latest`, await test('1', { compression: 'zstd' }));
  images.set(`${staging}2:latest`, await test('2', { compression: 'none' }));
  images.set(`${staging}3:latest`, await test('3', { format: 'docker' }));
  const tags = await test('tags', { indexed: true });
  for (const tag of ['1', '2', '3']) images.set(`${staging}tags:${tag}`, tags);

  const users = { uid: '1002', username: 'www-data', 'uid-group': '1003:1004', 'username-group': 'www-data:1004' };
  for (const [name, user] of Object.entries(users)) {
    images.set(
      `${staging}user-${name}:latest`,
      imageOf({ layers: [await baseLayer()], process: { Cmd: ['sh'], User: user }, format: 'docker' }),
    );
  }
  images.set(
    `${staging}predefined-group:latest`,
    imageOf({ layers: [await baseLayer(), await predefinedGroup()], process: { Cmd: ['sh'], User: '1000' } }),
  );
  for (const tag of ['1', '1-glibc', '1-musl', '1-uclibc', '1.35.0-glibc']) {
    images.set(`docker/library/busybox:${tag}`, await test(`library-${tag}`, { indexed: tag === '1' }));
  }
  return new Map([...images].map(([name, image]) => [name.includes(':') ? name : `${name}:latest`, image]));
}

const PASSWD =
  'root:x:0:0:root:/root:/bin/sh\nwww-data:x:33:33:www-data:/var/www:/bin/false\nnobody:x:65534:65534:nobody:/nonexistent:/bin/false\n';
const GROUP = 'root:x:0:\nwww-data:x:33:\nnogroup:x:65534:\n';

/** A shell whose applets are looked up in the file system (masking /bin/ls must have an effect) with `ipcs` and `pgrep` beside them. */
async function baseEntries(shop: Workshop): Promise<Entry[]> {
  const tools = await Promise.all(
    ['ipcs', 'pgrep'].map(async (name) => {
      const program = findProgram(name);
      if (program === undefined) throw new Error(`no ${name} on this machine: run hack/install critest`);
      return programEntries(program, `/bin/${name}`);
    }),
  );
  return merged([
    ...(await busyboxEntries(await lookingBusybox(shop))),
    ...tools.flat(),
    { path: '/etc/passwd', data: PASSWD },
    { path: '/etc/group', data: GROUP },
    { path: '/etc/nsswitch.conf', data: 'passwd: files\ngroup: files\nhosts: files dns\n' },
    { path: '/root', directory: true, mode: 0o700 },
    { path: '/tmp', directory: true, mode: 0o1777 },
    { path: '/var/tmp', directory: true, mode: 0o1777 },
    { path: '/var/run', directory: true },
    { path: '/var/log', directory: true },
    { path: '/dev', directory: true },
    { path: '/proc', directory: true },
    { path: '/sys', directory: true },
  ]);
}

/** The machine's busybox if its shell looks programs up; else the distribution's ordinary one, which is fetched but not installed. */
async function lookingBusybox(shop: Workshop): Promise<string> {
  const here = findProgram('busybox');
  const looks = async (busybox: string): Promise<boolean> => {
    const { stdout } = await execa(busybox, ['sh', '-c', 'type ls'], { reject: false });
    return stdout.includes('/');
  };
  if (here !== undefined && (await looks(here))) return here;
  const fetched = await packageFile(shop, 'busybox', ['bin/busybox', 'usr/bin/busybox']);
  if (fetched !== undefined && (await looks(fetched))) return fetched;
  throw new Error('no busybox whose shell looks its applets up in the file system: the package busybox could not be fetched by apt-get');
}

/** A file of a package that is fetched and unpacked, never installed: a web server that the package starts would take the machine's port 80. */
async function packageFile(shop: Workshop, name: string, paths: readonly string[]): Promise<string | undefined> {
  const dir = join(shop.dir, name);
  mkdirSync(dir, { recursive: true });
  const archiveName = (): string | undefined => readdirSync(dir).find((each) => each.endsWith('.deb'));
  if (archiveName() === undefined) await execa('apt-get', ['download', '-qq', name], { cwd: dir, reject: false });
  const archive = archiveName();
  if (archive === undefined) return undefined;
  await execa('dpkg-deb', ['-x', archive, 'files'], { cwd: dir });
  return paths.map((path) => join(dir, 'files', path)).find((path) => existsSync(path));
}

/** Static, so that each image holds one file. */
async function compile(shop: Workshop, name: string): Promise<Buffer> {
  const out = join(shop.dir, name);
  await execa('gcc', ['-static', '-Os', '-s', '-Wall', '-Werror', '-o', out, join(import.meta.dirname, `${name}.c`)]);
  return readFileSync(out);
}

/** pause:3.9 is one image under two registries; what the runtime uses itself has another id. */
async function addPause(images: Map<string, Image>, shop: Workshop): Promise<void> {
  const program = await compile(shop, 'pause');
  const pause = async (version: string): Promise<Layer> =>
    layerOf([
      { path: '/pause', data: program, mode: 0o755 },
      { path: '/version', data: `${version}\n` },
    ]);
  const process = { Entrypoint: ['/pause'], User: '65535:65535' };
  images.set('pause:3.9', imageOf({ layers: [await pause('3.9')], process, format: 'docker', indexed: true }));
  images.set('pause:3.10.1', imageOf({ layers: [await pause('3.10.1')], process, indexed: true }));
}

/** A real nginx: its master's title and its pid file are looked at. */
async function nginxImage(shop: Workshop, base: Layer, port: number): Promise<Image> {
  const program =
    findProgram('nginx') ??
    (await packageFile(shop, 'nginx', ['usr/sbin/nginx'])) ??
    (await packageFile(shop, 'nginx-light', ['usr/sbin/nginx']));
  if (program === undefined) throw new Error('no nginx on this machine, and apt-get could not fetch its package');
  const conf = `user www-data;
worker_processes 1;
pid /var/run/nginx.pid;
error_log stderr notice;
events { worker_connections 64; }
http {
  access_log /dev/stdout;
  server {
    listen ${port};
    location / { root /usr/share/nginx/html; index index.html; }
  }
}
`;
  const layer = await layerOf(
    merged([
      ...(await programEntries(program, '/usr/sbin/nginx')),
      { path: '/etc/nginx/nginx.conf', data: conf },
      { path: '/usr/share/nginx/html/index.html', data: '<title>Welcome to nginx!</title>\n' },
      { path: '/var/lib/nginx', directory: true },
      { path: '/var/log/nginx', directory: true },
      { path: '/run', directory: true },
    ]),
  );
  return imageOf({ layers: [base, layer], process: { Cmd: ['/usr/sbin/nginx', '-g', 'daemon off;'], StopSignal: 'SIGQUIT' } });
}

/** An HTTP server on 80 that says "httpd" in its log. */
async function httpdImage(base: Layer): Promise<Image> {
  const layer = await layerOf([
    {
      path: '/usr/local/bin/httpd-foreground',
      data: '#!/bin/sh\necho httpd: serving on port 80\nexec httpd -f -v -p 80 -h /www\n',
      mode: 0o755,
    },
    { path: '/www/index.html', data: 'It works!\n' },
  ]);
  return imageOf({ layers: [base, layer], process: { Cmd: ['httpd-foreground'] }, format: 'docker' });
}

async function effectiveUidImage(shop: Workshop, base: Layer): Promise<Image> {
  const layer = await layerOf([{ path: '/nnp', data: await compile(shop, 'effective-uid'), mode: 0o4755 }], 'zstd');
  return imageOf({ layers: [base, layer], process: { Entrypoint: ['/nnp'] }, indexed: true });
}

/** User 1000, who is also in group 50000 of the image. */
async function predefinedGroup(): Promise<Layer> {
  return layerOf([
    { path: '/etc/passwd', data: `${PASSWD}default-user:x:1000:1000::/home/default-user:/bin/sh\n` },
    { path: '/etc/group', data: `${GROUP}default-user:x:1000:\ngroup-defined-in-image:x:50000:default-user\n` },
    { path: '/home/default-user', directory: true, uid: 1000 },
  ]);
}
