import { expect } from 'chai';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { createServer } from 'node:http';
import type { Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { closeSync, mkdtempSync, openSync, readdirSync, readFileSync, readSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import { digestOf } from '../../../src/base/digest.ts';
import { ClassifiedError } from '../../../src/base/errors.ts';
import type { Op } from '../../../src/base/op.ts';
import { newOp } from '../../../src/base/op.ts';
import type { BlobThread } from '../../../src/content/blob-thread.ts';
import { BlobThreads } from '../../../src/content/blob-thread.ts';
import type { ContentStore, GrowingFile } from '../../../src/content/content.ts';
import { createLocalContent } from '../../../src/content/local.ts';
import type { AskBlob, BlobAnswer } from '../../../src/os/http-client.ts';

const PIECE = 256 << 10;
const HOST = { ca: [], client: [], skipVerify: false, connectTimeoutMs: undefined };

describe('content/ingest of a large blob', () => {
  const blob = randomBytes(6_000_000);
  const digest = digestOf(blob);
  const altered = Buffer.from(blob);
  altered[5_000_000] = (altered[5_000_000] ?? 0) ^ 1;
  let dir: string;
  let content: ContentStore;
  let op: Op;
  let server: Server;

  before(async () => {
    server = createServer((request, response) => {
      const [, from = '', to = ''] = /^bytes=(\d+)-(\d+)$/.exec(request.headers.range ?? '') ?? [];
      const bytes = request.url === '/altered' ? altered : blob;
      if (request.url === '/missing') response.writeHead(404).end('there is none');
      else if (request.url === '/broken') {
        response.writeHead(206, { 'content-length': 100_000 }).flushHeaders();
        setTimeout(() => response.destroy(), 20);
      }
      // Its answer never ends.
      else if (request.url === '/endless') response.writeHead(206).write(bytes.subarray(Number(from), Number(to) + 1));
      else response.writeHead(206).end(bytes.subarray(Number(from), Number(to) + 1));
    }).listen(0, '127.0.0.1');
    await once(server, 'listening');
  });
  after(() => {
    server.closeAllConnections();
    server.close();
  });
  beforeEach(async () => {
    op = newOp('t', { timeoutMs: 20_000 });
    dir = mkdtempSync(join(tmpdir(), 'gantry-content-'));
    content = await createLocalContent(dir);
  });
  afterEach(() => rmSync(dir, { recursive: true }));

  interface Piece {
    readonly at: number;
    readonly to: number;
  }
  const pieces = (): Piece[] =>
    Array.from({ length: Math.ceil(blob.length / PIECE) }, (_, n) => ({ at: n * PIECE, to: Math.min(blob.length, (n + 1) * PIECE) }));
  const asked = (ask: AskBlob, { at, to }: Piece, path = '', signal = op.signal): Promise<BlobAnswer> => {
    const { port } = server.address() as AddressInfo;
    return ask(HOST, { method: 'GET', url: `http://127.0.0.1:${port}/${path}`, headers: { range: `bytes=${at}-${to - 1}` }, signal });
  };
  /** How many bytes the asker was told of. */
  const fetched = async (ask: AskBlob, { at, to }: Piece, path = ''): Promise<number> => {
    const answer = await asked(ask, { at, to }, path);
    const part = { at, to };
    let took = 0;
    expect(await answer.receive({ at, parts: [part], stallMs: 5000, progress: (bytes) => void (took += bytes) })).to.equal(true);
    expect(part.at).to.equal(to);
    return took;
  };
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
    const shuffled = [...all.slice(12), ...all.slice(4, 12).reverse(), ...all.slice(0, 4)];
    const took = await Promise.all(shuffled.map((piece) => fetched(ingest.ask, piece)));
    expect(took.reduce((sum, bytes) => sum + bytes)).to.equal(blob.length);
    await ingest.commit(op);
    const { told, bytes } = await seen;
    expect(bytes.equals(blob)).to.equal(true);
    expect(told).to.deep.equal([...told].sort((a, b) => a - b));
    expect(told.at(-1)).to.equal(blob.length);
    expect(readFileSync(content.path(digest)).equals(blob)).to.equal(true);
    expect(ingest.follow(), 'a late reader').to.equal(undefined);
  });

  it('takes of a body what it is told to, and passes over the rest', async () => {
    await using ingest = await content.ingest({ digest, sizeBytes: blob.length });
    const whole = { at: 0, to: blob.length };
    const parts = [
      { at: 1000, to: 2_000_000 },
      { at: 3_000_000, to: blob.length - 1 },
    ];
    await (await asked(ingest.ask, whole)).receive({ at: 0, parts, stallMs: 5000, progress: () => undefined });
    const rest = [
      { at: 0, to: 1000 },
      { at: 2_000_000, to: 3_000_000 },
      { at: blob.length - 1, to: blob.length },
    ];
    for (const piece of rest) await fetched(ingest.ask, piece);
    await ingest.commit(op);
    expect(readFileSync(content.path(digest)).equals(blob)).to.equal(true);
  });

  it('tells the reader when it is given up, and leaves nothing: no connection either', async () => {
    const ingest = await content.ingest({ digest, sizeBytes: blob.length });
    const file = ingest.follow();
    if (file === undefined) throw new Error('it can not be followed');
    const seen = followed(file);
    await fetched(ingest.ask, { at: 0, to: 4 * PIECE });
    const endless = await asked(ingest.ask, { at: 4 * PIECE, to: 5 * PIECE }, 'endless');
    const parts = [{ at: 4 * PIECE, to: blob.length }];
    const receiving = endless
      .receive({ at: 4 * PIECE, parts, stallMs: 20_000, progress: () => undefined })
      .catch((error: unknown) => error);
    await ingest[Symbol.asyncDispose]();
    expect((await seen).told.at(-1)).to.be.within(4 * PIECE, 5 * PIECE);
    expect(await receiving).to.have.property('kind', 'cancelled');
    expect(readdirSync(join(dir, 'ingest'))).to.deep.equal([]);
    // Those that wait for another request stay.
    const connections = promisify(server.getConnections.bind(server));
    const idle = await connections();
    server.closeIdleConnections();
    for (let n = 0; (await connections()) > 0 && n < 100; n++) await sleep(20);
    expect(await connections(), `of ${idle}`).to.equal(0);
  });

  it('tells what a host refused, what it never answered, and ends what is aborted', async () => {
    await using ingest = await content.ingest({ digest, sizeBytes: blob.length });
    const refused = await asked(ingest.ask, { at: 0, to: 10 }, 'missing');
    expect(refused.status).to.equal(404);
    expect(await refused.body(8).catch((e: unknown) => e)).to.have.property('kind', 'resourceExhausted');
    expect((await refused.body(100)).toString()).to.equal('there is none');
    const nobody = ingest.ask(HOST, { method: 'GET', url: 'http://127.0.0.1:1/', headers: {}, signal: op.signal });
    const error = (await nobody.catch((e: unknown) => e)) as ClassifiedError;
    expect(error).to.be.instanceOf(ClassifiedError).and.to.have.property('kind', 'unavailable');
    expect(error.detail).to.deep.equal({ isUnreachable: true });
    const end = new AbortController();
    const endless = await asked(ingest.ask, { at: 0, to: 4 * PIECE }, 'endless', end.signal);
    const part = { at: 0, to: blob.length };
    const progress = (): void => end.abort();
    const ended = await endless.receive({ at: 0, parts: [part], stallMs: 20_000, progress }).catch((e: unknown) => e);
    expect(ended).to.have.property('kind', 'unavailable');
    expect(part.at).to.be.within(1, 4 * PIECE);
    const before = asked(ingest.ask, { at: 0, to: PIECE }, 'endless', AbortSignal.abort());
    expect(await before.catch((e: unknown) => e)).to.have.property('kind', 'unavailable');
  });

  it('knows of a connection that broke before its body was asked for, and asks nothing when it has ended', async () => {
    const ingest = await content.ingest({ digest, sizeBytes: blob.length });
    const broken = await asked(ingest.ask, { at: 0, to: PIECE }, 'broken');
    await sleep(100);
    const what = { at: 0, parts: [{ at: 0, to: PIECE }], stallMs: 20_000, progress: () => undefined };
    expect(await broken.receive(what).catch((e: unknown) => e)).to.have.property('kind', 'unavailable');
    await ingest[Symbol.asyncDispose]();
    expect(await asked(ingest.ask, { at: 0, to: PIECE }).catch((e: unknown) => e)).to.have.property('kind', 'cancelled');
  });

  it('refuses a gap and another content', async () => {
    for (const [wanted, path] of [
      [pieces().filter((_, n) => n !== 7), ''],
      [pieces(), 'altered'],
    ] as const) {
      const put = async (): Promise<unknown> => {
        await using ingest = await content.ingest({ digest, sizeBytes: blob.length });
        for (const piece of wanted) await fetched(ingest.ask, piece, path);
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
        for (const piece of pieces()) await fetched(to.ask, piece);
      } finally {
        await to.end();
      }
      return to.end();
    };
    const [first, ...others] = await Promise.all(blobs.map((each) => write(each).catch((error: unknown) => error)));
    expect(first).to.include({ code: 'EBADF' }).and.to.not.have.property('kind');
    for (const each of others) expect(each).to.have.property('sha256', digest.slice('sha256:'.length));
    for (const fd of fds) closeSync(fd);
  });
});
