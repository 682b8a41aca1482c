import { createServer } from 'node:http';
import type { IncomingMessage, ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import type { Image } from './image.ts';

/** A registry in this process that serves given images and takes none. */
export interface StaticRegistry extends AsyncDisposable {
  /** host:port on loopback. */
  readonly host: string;
  /** Digests of the blobs that were asked for. */
  readonly blobsAsked: string[];
}

/** `images` by repository:tag. Port 0: any that is free. */
export async function serveImages(images: ReadonlyMap<string, Image>, port = 0): Promise<StaticRegistry> {
  const blobsAsked: string[] = [];
  const server = createServer((request, response) => {
    const digest = /\/blobs\/(sha256:[0-9a-f]{64})$/.exec(request.url ?? '')?.[1];
    if (digest !== undefined && request.method === 'GET') blobsAsked.push(digest);
    answer(images, request, response);
  });
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.listen(port, '127.0.0.1', resolve);
  });
  return {
    host: `127.0.0.1:${(server.address() as AddressInfo).port}`,
    blobsAsked,
    async [Symbol.asyncDispose]() {
      server.closeAllConnections();
      await new Promise<void>((resolve) => server.close(() => resolve()));
    },
  };
}

function answer(images: ReadonlyMap<string, Image>, request: IncomingMessage, response: ServerResponse): void {
  const { pathname } = new URL(request.url ?? '/', 'http://registry');
  const send = (type: string, body: Buffer, digest?: string): void => {
    response.writeHead(200, {
      'content-type': type,
      'content-length': body.length,
      ...(digest === undefined ? {} : { 'docker-content-digest': digest }),
    });
    response.end(request.method === 'HEAD' ? undefined : body);
  };
  if (pathname === '/v2/') return send('application/json', Buffer.from('{}'));
  const [, repository, kind, reference] = /^\/v2\/(.+)\/(manifests|blobs)\/([^/]+)$/.exec(pathname) ?? [];
  const held = [...images].filter(([name]) => name.startsWith(`${repository}:`));
  if (kind === 'blobs') {
    const blob = held.map(([, { blobs }]) => blobs.get(reference ?? '')).find((each) => each !== undefined);
    if (blob !== undefined) return send('application/octet-stream', blob, reference);
  }
  if (kind === 'manifests') {
    const manifest =
      images.get(`${repository}:${reference}`)?.manifests.at(-1) ??
      held.flatMap(([, { manifests }]) => manifests).find(({ digest }) => digest === reference);
    if (manifest !== undefined) return send(manifest.mediaType, manifest.body, manifest.digest);
  }
  response.writeHead(404, { 'content-type': 'application/json' });
  response.end(JSON.stringify({ errors: [{ code: kind === 'blobs' ? 'BLOB_UNKNOWN' : 'MANIFEST_UNKNOWN', message: 'not here' }] }));
}
