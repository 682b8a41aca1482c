import { expect } from 'chai';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { closeSync, mkdtempSync, openSync, readdirSync, readFileSync, readSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { digestOf } from '../../../src/base/digest.ts';
import { newOp } from '../../../src/base/op.ts';
import type { BlobThread } from '../../../src/content/blob-thread.ts';
import { BlobThreads } from '../../../src/content/blob-thread.ts';
import type { ContentStore, GrowingFile } from '../../../src/content/content.ts';
import { createLocalContent } from '../../../src/content/local.ts';

const PIECE = 1 << 16;
const op = newOp('t', { timeoutMs: 20_000 });

describe('content/ingest of a large blob', () => {
  const blob = randomBytes(6_000_000);
  const digest = digestOf(blob);
  let dir: string;
  let content: ContentStore;

  beforeEach(async () => {
    dir = mkdtempSync(join(tmpdir(), 'gantry-content-'));
    content = await createLocalContent(dir);
  });
  afterEach(() => rmSync(dir, { recursive: true }));

  const pieces = (bytes = blob): Array<{ at: number; chunk: Uint8Array }> =>
    Array.from({ length: Math.ceil(bytes.length / PIECE) }, (_, n) => ({
      at: n * PIECE,
      chunk: new Uint8Array(bytes.subarray(n * PIECE, (n + 1) * PIECE)),
    }));
  /** What the follower is told, and what it would read, until the port closes. */
  const followed = async ({ fd, port }: GrowingFile): Promise<{ told: number[]; bytes: Buffer }> => {
    const told: number[] = [];
    const bytes = Buffer.alloc(blob.length);
    let at = 0;
    port.on('message', (upTo: number) => {
      told.push(upTo);
      while (at < upTo) at += readSync(fd, bytes, at, upTo - at, at);
    });
    await once(port, 'close');
    closeSync(fd);
    return { told, bytes: bytes.subarray(0, at) };
  };

  it('takes pieces in any order, and shows what is whole from the beginning on', async () => {
    await using ingest = await content.ingest({ digest, sizeBytes: blob.length });
    const file = ingest.follow();
    if (file === undefined) throw new Error('it can not be followed');
    expect(ingest.follow(), 'a second reader').to.equal(undefined);
    const seen = followed(file);
    const all = pieces();
    const shuffled = [...all.slice(40), ...all.slice(10, 40).reverse(), ...all.slice(0, 10)];
    await Promise.all(shuffled.map(({ chunk, at }) => ingest.write(chunk, at)));
    await ingest.commit(op);
    const { told, bytes } = await seen;
    expect(bytes.equals(blob)).to.equal(true);
    expect(told).to.deep.equal([...told].sort((a, b) => a - b));
    expect(told.at(-1)).to.equal(blob.length);
    expect(readFileSync(content.path(digest)).equals(blob)).to.equal(true);
    expect(ingest.follow(), 'a late reader').to.equal(undefined);
  });

  it('tells the reader when it is given up, and leaves nothing', async () => {
    const ingest = await content.ingest({ digest, sizeBytes: blob.length });
    const file = ingest.follow();
    if (file === undefined) throw new Error('it can not be followed');
    const seen = followed(file);
    for (const { chunk, at } of pieces().slice(0, 20)) await ingest.write(chunk, at);
    await ingest[Symbol.asyncDispose]();
    expect((await seen).told.at(-1)).to.be.lessThan(20 * PIECE + 1);
    expect(readdirSync(join(dir, 'ingest'))).to.deep.equal([]);
  });

  it('refuses a gap, another content, and bytes beyond its size', async () => {
    const altered = Buffer.from(blob);
    altered[5_000_000] = (altered[5_000_000] ?? 0) ^ 1;
    for (const written of [
      pieces().filter((_, n) => n !== 7),
      pieces(altered),
      [...pieces(), { at: blob.length, chunk: new Uint8Array(1) }],
    ]) {
      const put = async (): Promise<unknown> => {
        await using ingest = await content.ingest({ digest, sizeBytes: blob.length });
        for (const { chunk, at } of written) await ingest.write(chunk, at);
        return await ingest.commit(op);
      };
      expect(await put().catch((error: { kind: string }) => error.kind)).to.equal('dataLoss');
    }
    expect(await content.info(digest)).to.equal(undefined);
    expect(readdirSync(join(dir, 'ingest'))).to.deep.equal([]);
  });

  it('fails with the error of the disk, and others that share the thread do not', async () => {
    const threads = new BlobThreads();
    const path = join(dir, 'file');
    writeFileSync(path, '');
    const fds = [openSync(path, 'r'), openSync(path, 'r+'), openSync(path, 'r+')];
    const blobs = fds.map((fd) => threads.open({ fd, sizeBytes: blob.length }));
    const write = async (to: BlobThread): Promise<{ sha256: string }> => {
      try {
        for (const { chunk, at } of pieces()) await to.write(chunk, at);
      } finally {
        await to.end().catch(() => undefined);
      }
      return to.end();
    };
    const [first, ...others] = await Promise.all(blobs.map((each) => write(each).catch((error: unknown) => error)));
    expect(first).to.include({ code: 'EBADF' }).and.to.not.have.property('kind');
    for (const each of others) expect(each).to.have.property('sha256', digest.slice('sha256:'.length));
    for (const fd of fds) closeSync(fd);
  });

  it('lets the event loop turn while it writes and hashes', async () => {
    await using ingest = await content.ingest({ digest, sizeBytes: blob.length });
    let turns = 0;
    const timer = setInterval(() => turns++, 1);
    for (const { chunk, at } of pieces()) await ingest.write(chunk, at);
    await ingest.commit(op);
    await sleep(5);
    clearInterval(timer);
    expect(turns).to.be.greaterThan(2);
  });
});
