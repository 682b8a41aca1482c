import { expect } from 'chai';
import { randomBytes } from 'node:crypto';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import type { IncomingMessage, ServerResponse } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Digest } from '../../../src/base/digest.ts';
import { digestOf } from '../../../src/base/digest.ts';
import { ClassifiedError } from '../../../src/base/errors.ts';
import { newOp } from '../../../src/base/op.ts';
import { Slots } from '../../../src/base/slots.ts';
import { createLocalContent } from '../../../src/content/local.ts';
import { askInto } from '../../../src/os/http-client.ts';
import type { BlobSink } from '../../../src/registry/blob-fetch.ts';
import { RepositoryClient } from '../../../src/registry/client.ts';
import { Missing } from '../../../src/registry/missing.ts';
import { HttpServers } from '../../lib/http-servers.ts';

const MIB = 1 << 20;

/** One request for the blob, as a fake host sees it. `to` is exclusive. */
interface Asked {
  readonly nth: number;
  readonly range: string | undefined;
  readonly from: number;
  readonly to: number;
}

/** Where a blob is received. */
type Begin = () => Promise<Omit<BlobSink, 'took'>>;
const PLACES: Readonly<Record<string, (digest: Digest, stack: AsyncDisposableStack) => Begin>> = {
  'in memory': () => async () => {
    const bytes = Buffer.alloc(blob.length);
    const commit = async (): Promise<void> => {
      if (!bytes.equals(blob)) throw new ClassifiedError('dataLoss', 'not the blob');
    };
    return { ask: askInto((chunk, at) => void bytes.set(chunk, at)), commit };
  },
  'by a thread': (digest, stack) => {
    const dir = mkdtempSync(join(tmpdir(), 'gantry-content-'));
    stack.defer(() => rmSync(dir, { recursive: true }));
    const content = createLocalContent(dir);
    return async () => {
      const ingest = stack.use(await (await content).ingest({ digest, sizeBytes: blob.length }));
      return { ask: ingest.ask, commit: () => ingest.commit(newOp('t')) };
    };
  },
};

const blob = randomBytes(40 * MIB + 12_345);

for (const [place, beginIn] of Object.entries(PLACES))
  describe(`registry/blob-fetch ${place} (P4, P6, R35)`, function () {
    this.timeout(20_000);
    const digest = digestOf(blob);
    let dir: string;
    const servers = new HttpServers();

    beforeEach(() => (dir = mkdtempSync(join(tmpdir(), 'gantry-hosts-'))));
    afterEach(() => {
      rmSync(dir, { recursive: true });
      servers.end();
    });

    /** A host; `answer` returns true when it has answered itself, else the range that was asked for is served. */
    const host = async (answer: (asked: Asked, response: ServerResponse, request: IncomingMessage) => boolean = () => false) => {
      const log: Asked[] = [];
      let sockets = 0;
      const name = await servers.start((request, response) => {
        const { range } = request.headers;
        const [, from = '0', last = ''] = /^bytes=(\d+)-(\d*)$/.exec(range ?? '') ?? [];
        const asked = { nth: log.length, range, from: Number(from), to: last === '' ? blob.length : Number(last) + 1 };
        log.push(asked);
        if (answer(asked, response, request)) return;
        partial(response, asked);
      });
      servers.all.at(-1)?.on('connection', () => sockets++);
      return { name, log, sockets: () => sockets };
    };
    const partial = (response: ServerResponse, { range, from, to }: Asked, body = blob.subarray(from, to)): void => {
      if (range === undefined) response.writeHead(200, { 'content-length': blob.length });
      else response.writeHead(206, { 'content-range': `bytes ${from}-${to - 1}/${blob.length}`, 'content-length': to - from });
      response.write(body, () => (body.length < to - from ? response.destroy() : response.end()));
    };
    const fetched = async (registry: string, { slots = new Slots(0), stallMs = 30_000 } = {}) => {
      const client = new RepositoryClient({ hostsDir: dir, registry, repository: 'a/b', credentials: undefined, stallMs });
      await using stack = new AsyncDisposableStack();
      const beginOne = beginIn(digest, stack);
      let written = 0;
      let begun = 0;
      const begin = async (): Promise<BlobSink> => {
        begun++;
        written = 0;
        return { ...(await beginOne()), took: (bytes) => void (written += bytes) };
      };
      await client.blob(newOp('t', { timeoutMs: 15_000 }), { digest, sizeBytes: blob.length, begin, more: () => slots.tryTake() });
      expect(written, 'each byte once').to.equal(blob.length);
      return begun;
    };
    const twoHosts = (first: string, second: string): string => {
      mkdirSync(join(dir, 'two.example'), { recursive: true });
      writeFileSync(join(dir, 'two.example', 'hosts.toml'), `server = "http://${second}"\n[host."http://${first}"]\n`);
      return 'two.example';
    };

    it('comes over as many connections as the cap has room for, which then have room again', async () => {
      const one = await host();
      const slots = new Slots(2);
      expect(await fetched(one.name, { slots })).to.equal(1);
      expect(one.log[0]?.range).to.equal(`bytes=0-${8 * MIB - 1}`);
      expect(one.log.map(({ from }) => from).sort((a, b) => a - b)).to.deep.equal([0, 8, 16, 24, 32, 40].map((mib) => mib * MIB));
      expect(one.sockets()).to.equal(3);
      expect([slots.tryTake(), slots.tryTake(), slots.tryTake()].map((slot) => slot !== undefined)).to.deep.equal([true, true, false]);
    });

    it('comes over one connection when there is no room, and is asked for in two parts', async () => {
      const one = await host();
      await fetched(one.name);
      expect(one.log.map(({ range }) => range)).to.deep.equal([`bytes=0-${8 * MIB - 1}`, `bytes=${8 * MIB}-`]);
      expect(one.sockets()).to.equal(1);
    });

    it('lets others have a connection that they wait for', async () => {
      const slots = new Slots(1);
      let waited: Promise<Disposable> | undefined;
      let before = 0;
      const one = await host((asked, response) => {
        if (asked.nth === 1) waited = slots.take().then((slot) => ((before = one.log.length), slot));
        if (asked.nth < 3) return false;
        // Which of the connections is faster is not what is tested: the others' parts come once the helper has let go.
        void waited?.then(() => partial(response, asked));
        return true;
      });
      await fetched(one.name, { slots });
      (await waited)?.[Symbol.dispose]();
      expect(before).to.be.within(2, 5);
    });

    it('is read whole from a host that ignores ranges, without a length too, and once', async () => {
      for (const headers of [{ 'content-length': blob.length }, {}]) {
        const one = await host((_asked, response) => {
          response.writeHead(200, headers).end(blob);
          return true;
        });
        expect(await fetched(one.name, { slots: new Slots(3) })).to.equal(1);
        expect(one.log).to.have.length(1);
      }
    });

    it('goes on after a connection broke by passing over what it has, where ranges are ignored', async () => {
      const one = await host(({ nth }, response) => {
        partial(response, { nth, range: undefined, from: 0, to: blob.length }, nth === 0 ? blob.subarray(0, 20 * MIB) : blob);
        return true;
      });
      expect(await fetched(one.name)).to.equal(1);
      expect(one.log).to.have.length(2);
    });

    it('does without ranges where they are refused, and takes less than it asked for', async () => {
      const refusing = await host(({ range }, response) => {
        if (range !== undefined) response.writeHead(416).end();
        return range !== undefined;
      });
      await fetched(refusing.name);
      expect(refusing.log.map(({ range }) => range)).to.deep.equal([`bytes=0-${8 * MIB - 1}`, undefined]);
      const stingy = await host((asked, response) => {
        partial(response, { ...asked, to: Math.min(asked.to, asked.from + 3 * MIB) });
        return true;
      });
      await fetched(stingy.name, { slots: new Slots(2) });
      expect(stingy.log.length).to.be.greaterThan(13);
    });

    it('goes on where each of many connections broke, however often, as long as it gets on', async () => {
      const one = await host((asked, response) => {
        partial(response, asked, blob.subarray(asked.from, Math.min(asked.to, asked.from + 6 * MIB)));
        return true;
      });
      expect(await fetched(one.name)).to.equal(1);
      expect(one.log.length).to.be.greaterThan(6);
    });

    it('gives up on a host that never gets on, and the next one brings what is missing', async () => {
      const broken = await host((asked, response) => {
        if (asked.from > 0) response.destroy();
        return asked.from > 0;
      });
      const good = await host();
      expect(await fetched(twoHosts(broken.name, good.name))).to.equal(1);
      expect(broken.log).to.have.length(5);
      expect(good.log.map(({ from }) => from)).to.deep.equal([8 * MIB, 16 * MIB]);
    });

    it('waits as long as a host asks with 429, and a helper that is refused gives up', async () => {
      const times: number[] = [];
      const one = await host(({ nth, from }, response) => {
        times.push(Date.now());
        const isRefused = nth === 0 || (from === 16 * MIB && nth < 5);
        if (isRefused) response.writeHead(429, nth === 0 ? { 'retry-after': '1' } : {}).end();
        return isRefused;
      });
      expect(await fetched(one.name, { slots: new Slots(2) })).to.equal(1);
      expect((times[1] ?? 0) - (times[0] ?? 0)).to.be.within(950, 5000);
    });

    it('leaves a helper that stalls, and does not wait for its part for ever', async () => {
      let stalled = 0;
      const one = await host(({ from, to, range }, response) => {
        if (from !== 16 * MIB || stalled++ > 0) return false;
        response.writeHead(206, { 'content-range': `bytes ${from}-${to - 1}/${blob.length}` });
        response.write(blob.subarray(from, from + MIB));
        return range !== undefined;
      });
      expect(await fetched(one.name, { slots: new Slots(2), stallMs: 300 })).to.equal(1);
      expect(one.log.some(({ from }) => from > 16 * MIB && from < 24 * MIB)).to.equal(true);
    });

    it('begins anew with one host alone when what two of them brought is not the blob', async () => {
      const lying = await host((asked, response) => {
        if (asked.from === 0) partial(response, asked, Buffer.alloc(asked.to));
        else response.destroy();
        return true;
      });
      const good = await host();
      expect(await fetched(twoHosts(lying.name, good.name))).to.equal(2);
      expect(good.log.at(-2)?.from).to.equal(0);
    });

    it('ends with the op, in the middle of bodies, and leaves no connection', async () => {
      const one = await host(({ from, to }, response) => {
        response.writeHead(206, { 'content-range': `bytes ${from}-${to - 1}/${blob.length}` }).write(blob.subarray(from, from + 100));
        return true;
      });
      const client = new RepositoryClient({ hostsDir: dir, registry: one.name, repository: 'a/b', credentials: undefined });
      await using stack = new AsyncDisposableStack();
      const sink = { ...(await beginIn(digest, stack)()), took: () => undefined };
      const slots = new Slots(2);
      const request = { digest, sizeBytes: blob.length, begin: async () => sink, more: () => slots.tryTake() };
      const fetching = client.blob(newOp('t', { timeoutMs: 200 }), request);
      expect(await fetching.catch((error: { kind: string }) => error.kind)).to.equal('deadlineExceeded');
      expect([slots.tryTake(), slots.tryTake()]).to.not.include(undefined);
      const open = servers.all.map((server) => new Promise<number>((resolve) => server.getConnections((_error, count) => resolve(count))));
      expect(await Promise.all(open)).to.deep.equal([0]);
    });

    it('fails with our own disk at once, and leaves no connection', async () => {
      const one = await host();
      const full = Object.assign(new Error('no space left on device'), { code: 'ENOSPC' });
      const client = new RepositoryClient({ hostsDir: dir, registry: one.name, repository: 'a/b', credentials: undefined });
      const ask = askInto((_chunk, at) => {
        if (at > 10 * MIB) throw full;
      });
      const slots = new Slots(2);
      const begin = async (): Promise<BlobSink> => ({ ask, took: () => undefined, commit: async () => undefined });
      const request = { digest, sizeBytes: blob.length, begin, more: () => slots.tryTake() };
      expect(await client.blob(newOp('t'), request).catch((error: unknown) => error)).to.equal(full);
      expect([slots.tryTake(), slots.tryTake()]).to.not.include(undefined);
    });
  });

describe('registry/missing', () => {
  it('gives out parts in order, and what is given back first', () => {
    const missing = new Missing(100);
    const [a, b] = [missing.take(30), missing.take(30)];
    if (a === undefined || b === undefined) throw new Error('no parts');
    expect([a, b]).to.deep.equal([
      { at: 0, to: 30 },
      { at: 30, to: 60 },
    ]);
    a.at = 10;
    missing.giveBack(a);
    expect(missing.freeBytes).to.equal(60);
    expect(missing.take(Infinity)).to.deep.equal({ at: 10, to: 30 });
    b.at = b.to;
    missing.giveBack(b);
    expect(missing.take(50)).to.deep.equal({ at: 60, to: 100 });
    expect(missing.take(50)).to.equal(undefined);
    expect(missing.isDone).to.equal(false);
  });
});
