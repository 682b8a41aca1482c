import { createHash } from 'node:crypto';
import { promisify } from 'node:util';
import { gzip, zstdCompress } from 'node:zlib';
import { pack } from 'tar-stream';
import type { Header } from 'tar-stream';

/** One entry of a layer. Directories are made as they are needed; `/tmp` and the like must be said. */
export type Entry =
  | { readonly path: string; readonly data: Buffer | string; readonly mode?: number; readonly uid?: number }
  | { readonly path: string; readonly directory: true; readonly mode?: number; readonly uid?: number }
  | { readonly path: string; readonly symlink: string }
  | { readonly path: string; readonly hardlink: string };

export type Compression = 'gzip' | 'zstd' | 'none';

export interface Layer {
  readonly blob: Buffer;
  readonly digest: string;
  /** Digest of the tar before compression. */
  readonly diffId: string;
  readonly compression: Compression;
}

export const digestOf = (data: Buffer | string): string => `sha256:${createHash('sha256').update(data).digest('hex')}`;

/** The same entries give the same bytes. */
export async function layerOf(entries: Iterable<Entry>, compression: Compression = 'gzip'): Promise<Layer> {
  const tar = pack();
  const made = new Set<string>();
  for (const entry of entries) {
    const path = entry.path.replace(/^\//, '');
    const parts = path.split('/');
    for (let depth = 1; depth < parts.length; depth++) {
      const parent = parts.slice(0, depth).join('/');
      if (!made.has(parent)) tar.entry(header(parent, { type: 'directory', mode: 0o755 }));
      made.add(parent);
    }
    if ('directory' in entry) made.add(path);
    add(tar, path, entry);
  }
  tar.finalize();
  const chunks: Buffer[] = [];
  for await (const chunk of tar) chunks.push(chunk as Buffer);
  const plain = Buffer.concat(chunks);
  const blob = await compress(plain, compression);
  return { blob, digest: digestOf(blob), diffId: digestOf(plain), compression };
}

function add(tar: ReturnType<typeof pack>, path: string, entry: Entry): void {
  if ('directory' in entry) tar.entry(header(path, { type: 'directory', mode: entry.mode ?? 0o755, uid: entry.uid ?? 0 }));
  else if ('symlink' in entry) tar.entry(header(path, { type: 'symlink', linkname: entry.symlink, mode: 0o777 }));
  else if ('hardlink' in entry) tar.entry(header(path, { type: 'link', linkname: entry.hardlink.replace(/^\//, ''), mode: 0o755 }));
  else tar.entry(header(path, { type: 'file', mode: entry.mode ?? 0o644, uid: entry.uid ?? 0 }), Buffer.from(entry.data));
}

const header = (name: string, more: Partial<Header>): Partial<Header> & { name: string } => ({
  name,
  uid: 0,
  gid: 0,
  mtime: new Date(0),
  ...more,
});

async function compress(plain: Buffer, compression: Compression): Promise<Buffer> {
  if (compression === 'gzip') return promisify(gzip)(plain, { level: 6 });
  if (compression === 'zstd') return promisify(zstdCompress)(plain);
  return plain;
}
