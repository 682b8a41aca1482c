import { createHash, randomBytes } from 'node:crypto';
import { mkdir, open, readdir, readFile, rename, rm, stat } from 'node:fs/promises';
import type { FileHandle } from 'node:fs/promises';
import { join } from 'node:path';
import type { Digest } from '../base/digest.ts';
import { hexOf, isDigest } from '../base/digest.ts';
import { ClassifiedError, errnoOf, notFound } from '../base/errors.ts';
import type { Op } from '../base/op.ts';
import { throwIfOver } from '../base/op.ts';
import { syncDir } from '../os/atomic-file.ts';
import type { BlobInfo, ContentStore, Ingest } from './content.ts';

/** Blobs as files `<root>/blobs/sha256/<hex>`; what is being written lies in `<root>/ingest`, which is emptied at the start. */
export async function createLocalContent(root: string): Promise<ContentStore> {
  const blobs = join(root, 'blobs', 'sha256');
  const ingests = join(root, 'ingest');
  await mkdir(blobs, { recursive: true, mode: 0o700 });
  await rm(ingests, { recursive: true, force: true });
  await mkdir(ingests, { recursive: true, mode: 0o700 });
  const pathOf = (digest: Digest): string => join(blobs, hexOf(digest));

  const info = async (digest: Digest): Promise<BlobInfo | undefined> => {
    try {
      return { digest, sizeBytes: (await stat(pathOf(digest))).size };
    } catch (error) {
      if (errnoOf(error) === 'ENOENT') return undefined;
      throw error;
    }
  };

  return {
    info,
    has: async (digest) => (await info(digest)) !== undefined,
    path: pathOf,
    async read(digest, maxBytes) {
      const found = await info(digest);
      if (found === undefined) throw notFound('blob', digest);
      if (found.sizeBytes > maxBytes)
        throw new ClassifiedError('resourceExhausted', `blob ${digest} has ${found.sizeBytes} bytes, the limit is ${maxBytes}`);
      return readFile(pathOf(digest));
    },
    async ingest(expected) {
      const path = join(ingests, `${hexOf(expected.digest)}.${randomBytes(4).toString('hex')}`);
      return new FileIngest(await open(path, 'wx', 0o600), { path, blob: pathOf(expected.digest), blobs, ...expected });
    },
    async *list() {
      for (const name of await readdir(blobs)) {
        const digest = `sha256:${name}`;
        const found = isDigest(digest) ? await info(digest) : undefined;
        if (found) yield found;
      }
    },
    remove: (digest) => rm(pathOf(digest), { force: true }),
  };
}

interface Target {
  readonly path: string;
  readonly blob: string;
  readonly blobs: string;
  readonly digest: Digest;
  readonly sizeBytes?: number;
}

class FileIngest implements Ingest {
  readonly #file: FileHandle;
  readonly #target: Target;
  readonly #hash = createHash('sha256');
  #sizeBytes = 0;
  #done = false;

  constructor(file: FileHandle, target: Target) {
    this.#file = file;
    this.#target = target;
  }

  async write(chunk: Uint8Array): Promise<void> {
    this.#sizeBytes += chunk.length;
    const { sizeBytes, digest } = this.#target;
    if (sizeBytes !== undefined && this.#sizeBytes > sizeBytes)
      throw new ClassifiedError('dataLoss', `blob ${digest} is longer than the ${sizeBytes} bytes it should have`);
    this.#hash.update(chunk);
    await this.#file.writeFile(chunk);
  }

  async commit(op: Op): Promise<BlobInfo> {
    throwIfOver(op);
    const { digest, sizeBytes, path, blob, blobs } = this.#target;
    if (sizeBytes !== undefined && this.#sizeBytes !== sizeBytes)
      throw new ClassifiedError('dataLoss', `blob ${digest} has ${this.#sizeBytes} bytes, it should have ${sizeBytes}`);
    const actual = `sha256:${this.#hash.digest('hex')}`;
    if (actual !== digest) throw new ClassifiedError('dataLoss', `blob ${digest}: its content is ${actual}`);
    await this.#file.sync();
    await this.#file.close();
    await rename(path, blob);
    await syncDir(blobs);
    this.#done = true;
    return { digest, sizeBytes: this.#sizeBytes };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#done) return;
    this.#done = true;
    await this.#file.close().catch(() => undefined);
    await rm(this.#target.path, { force: true });
  }
}
