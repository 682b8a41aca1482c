import { createHash, randomBytes } from 'node:crypto';
import { openSync } from 'node:fs';
import { mkdir, open, readdir, readFile, rename, rm, stat } from 'node:fs/promises';
import type { FileHandle } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import type { Digest } from '../base/digest.ts';
import { digestOf, hexOf, isDigest } from '../base/digest.ts';
import { ClassifiedError, errnoOf, notFound } from '../base/errors.ts';
import type { Op } from '../base/op.ts';
import { throwIfOver } from '../base/op.ts';
import { syncDir } from '../os/atomic-file.ts';
import { flatUsage, sumOf, usageOf } from '../os/disk-usage.ts';
import { hasDigest } from '../os/file-digest.ts';
import type { AskBlob } from '../os/http-client.ts';
import { askInto } from '../os/http-client.ts';
import type { Write } from '../os/http-receive.ts';
import type { BlobThread } from './blob-thread.ts';
import { BlobThreads } from './blob-thread.ts';
import type { BlobInfo, ContentStore, GrowingFile, Ingest } from './content.ts';

/** Hashed in less than a millisecond or two: not worth a thread. */
const SMALL_BYTES = 1 << 20;

/** Blobs as files `<root>/blobs/sha256/<hex>`; what is being written lies in `<root>/ingest`, which is emptied at the start. */
export async function createLocalContent(root: string): Promise<ContentStore> {
  const blobs = join(root, 'blobs', 'sha256');
  const ingests = join(root, 'ingest');
  await mkdir(blobs, { recursive: true, mode: 0o700 });
  await mkdir(ingests, { recursive: true, mode: 0o700 });
  for (const name of await readdir(ingests)) await rm(join(ingests, name), { recursive: true, force: true });
  const threads = new BlobThreads();
  const pathOf = (digest: Digest): string => join(blobs, hexOf(digest));

  const targetOf = (expected: BlobInfo): Target => ({
    ...expected,
    ...{ path: join(ingests, `${hexOf(expected.digest)}.${randomBytes(4).toString('hex')}`), blob: pathOf(expected.digest), blobs },
  });

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
    has: async ({ digest, sizeBytes }) => (await info(digest))?.sizeBytes === sizeBytes,
    path: pathOf,
    async read(digest, maxBytes) {
      const found = await info(digest);
      if (found === undefined) throw notFound('blob', digest);
      if (found.sizeBytes > maxBytes)
        throw new ClassifiedError('resourceExhausted', `blob ${digest} has ${found.sizeBytes} bytes, the limit is ${maxBytes}`);
      const bytes = await readFile(pathOf(digest));
      if (digestOf(bytes) !== digest) throw new ClassifiedError('dataLoss', `blob ${digest}: what is stored is damaged`);
      return bytes;
    },
    async check(op, { digest, sizeBytes }, depth) {
      const found = await info(digest);
      if (found === undefined) return 'absent';
      if (sizeBytes !== undefined && found.sizeBytes !== sizeBytes) return 'damaged';
      if (depth === 'quick' && found.sizeBytes > SMALL_BYTES) return 'intact';
      if (await hasDigest(op, pathOf(digest), { digest })) return 'intact';
      return (await info(digest)) === undefined ? 'absent' : 'damaged';
    },
    async put(op, { digest, bytes }) {
      await using ingest = new SmallIngest(targetOf({ digest, sizeBytes: bytes.length }));
      ingest.write(bytes, 0);
      await ingest.commit(op);
    },
    async ingest(expected) {
      const target = targetOf(expected);
      if (expected.sizeBytes <= SMALL_BYTES) return new SmallIngest(target);
      return new FileIngest(await open(target.path, 'wx+', 0o600), target, threads);
    },
    async *list() {
      for (const name of await readdir(blobs)) {
        const digest = `sha256:${name}`;
        const found = isDigest(digest) ? await info(digest) : undefined;
        if (found) yield found;
      }
    },
    usage: async () => sumOf([await usageOf([dirname(blobs)]), await flatUsage(blobs)]),
    remove: (digest) => rm(pathOf(digest), { force: true }),
  };
}

interface Target extends BlobInfo {
  /** Of the ingest. */
  readonly path: string;
  readonly blob: string;
  readonly blobs: string;
}

/** What both kinds of ingest do in the end: the file is whole, and gets its name. */
async function publish(file: FileHandle, { path, blob, blobs }: Target): Promise<void> {
  await file.sync();
  await file.close();
  await rename(path, blob);
  await syncDir(blobs);
}

function verify({ digest, sizeBytes }: BlobInfo, actual: { sha256: string; sizeBytes: number }): void {
  if (actual.sizeBytes !== sizeBytes)
    throw new ClassifiedError('dataLoss', `blob ${digest} has ${actual.sizeBytes} bytes, it should have ${sizeBytes}`);
  if (`sha256:${actual.sha256}` !== digest) throw new ClassifiedError('dataLoss', `blob ${digest}: its content is sha256:${actual.sha256}`);
}

/** Of a document or a small layer: kept in memory until it is whole. */
class SmallIngest implements Ingest {
  readonly #target: Target;
  readonly #bytes: Buffer;
  #written = 0;
  #file: FileHandle | undefined;
  #done = false;

  constructor(target: Target) {
    this.#target = target;
    this.#bytes = Buffer.alloc(target.sizeBytes);
  }

  readonly write: Write = (chunk, at) => {
    this.#bytes.set(chunk, at);
    this.#written += chunk.length;
  };

  readonly ask: AskBlob = askInto(this.write);

  follow(): undefined {
    return undefined;
  }

  async commit(op: Op): Promise<BlobInfo> {
    throwIfOver(op);
    const { path, digest, sizeBytes } = this.#target;
    verify(this.#target, { sha256: createHash('sha256').update(this.#bytes).digest('hex'), sizeBytes: this.#written });
    this.#file = await open(path, 'wx', 0o600);
    await this.#file.writeFile(this.#bytes);
    await publish(this.#file, this.#target);
    this.#done = true;
    return { digest, sizeBytes };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#done || this.#file === undefined) return;
    this.#done = true;
    await this.#file.close().catch(() => undefined);
    await rm(this.#target.path, { force: true });
  }
}

class FileIngest implements Ingest {
  readonly #file: FileHandle;
  readonly #target: Target;
  readonly #thread: BlobThread;
  #isFollowed = false;
  /** No more is written. */
  #isOver = false;
  #done = false;

  constructor(file: FileHandle, target: Target, threads: BlobThreads) {
    this.#file = file;
    this.#target = target;
    this.#thread = threads.open({ fd: file.fd, sizeBytes: target.sizeBytes });
  }

  get ask(): AskBlob {
    return this.#thread.ask;
  }

  follow(): GrowingFile | undefined {
    if (this.#isFollowed || this.#isOver) return undefined;
    this.#isFollowed = true;
    return { fd: openSync(this.#target.path, 'r'), port: this.#thread.follow(), sizeBytes: this.#target.sizeBytes };
  }

  async commit(op: Op): Promise<BlobInfo> {
    throwIfOver(op);
    const { digest, sizeBytes } = this.#target;
    this.#isOver = true;
    verify(this.#target, await this.#thread.end());
    await publish(this.#file, this.#target);
    this.#done = true;
    return { digest, sizeBytes };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#done) return;
    this.#done = true;
    this.#isOver = true;
    // It writes to the file's descriptor until then.
    await this.#thread.end().catch(() => undefined);
    await this.#file.close().catch(() => undefined);
    await rm(this.#target.path, { force: true });
  }
}
