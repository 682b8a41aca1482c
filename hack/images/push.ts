import type { Image } from './image.ts';

/** Pushes to a registry by the distribution API. `target` is repository:tag; `base` like http://127.0.0.1:5000. */
export async function push(base: string, target: string, image: Image): Promise<void> {
  const [, repository = '', tag = ''] = /^(.*):([^:/]+)$/.exec(target) ?? [];
  for (const [digest, blob] of image.blobs) await pushBlob(`${base}/v2/${repository}`, digest, blob);
  for (const [at, manifest] of image.manifests.entries()) {
    const reference = at === image.manifests.length - 1 ? tag : manifest.digest;
    await asked(`${base}/v2/${repository}/manifests/${reference}`, {
      method: 'PUT',
      headers: { 'content-type': manifest.mediaType },
      body: bytes(manifest.body),
    });
  }
}

async function pushBlob(repository: string, digest: string, blob: Buffer): Promise<void> {
  const present = await fetch(`${repository}/blobs/${digest}`, { method: 'HEAD' });
  if (present.ok) return;
  const begun = await asked(`${repository}/blobs/uploads/`, { method: 'POST' });
  const location = new URL(begun.headers.get('location') ?? '', repository);
  location.searchParams.set('digest', digest);
  await asked(location.href, { method: 'PUT', headers: { 'content-type': 'application/octet-stream' }, body: bytes(blob) });
}

async function asked(url: string, init: RequestInit): Promise<Response> {
  const response = await fetch(url, init);
  const body = await response.text();
  if (!response.ok) throw new Error(`${init.method} ${url}: ${response.status} ${body}`);
  return response;
}

const bytes = (data: Buffer): Uint8Array<ArrayBuffer> => new Uint8Array(data);
