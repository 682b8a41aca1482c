import { expect } from 'chai';
import fc from 'fast-check';
import { constants, createDeflate, createInflate } from 'node:zlib';
import { ClassifiedError } from '../../../src/base/errors.ts';
import { DICTIONARY, DICTIONARY_ID } from '../../../src/streaming/spdy/dictionary.ts';
import type { Frame } from '../../../src/streaming/spdy/frame.ts';
import { controlFrame, dataHeader, FrameReader, MAX_CONTROL_BYTES, TYPE } from '../../../src/streaming/spdy/frame.ts';
import { headerBlock, HeaderReader, HeaderWriter, parse } from '../../../src/streaming/spdy/headers.ts';

const adler32 = (bytes: Buffer): number => {
  let [a, b] = [1, 0];
  for (const byte of bytes) [a, b] = [(a + byte) % 65_521, (b + a + byte) % 65_521];
  return ((b << 16) | a) >>> 0;
};

/** Frames of `bytes`, cut at `cuts`; data frames are joined again. */
function read(bytes: Buffer, cuts: readonly number[] = []): Frame[] {
  const reader = new FrameReader();
  const frames: Frame[] = [];
  let at = 0;
  for (const cut of [...cuts, bytes.length].sort((a, b) => a - b)) {
    for (const frame of reader.push(bytes.subarray(at, Math.max(at, cut)))) {
      const last = frames.at(-1);
      if (frame.type === 'data' && last?.type === 'data' && !last.fin && last.streamId === frame.streamId)
        frames[frames.length - 1] = { ...frame, chunk: Buffer.concat([last.chunk, frame.chunk]) };
      else frames.push(frame);
    }
    at = Math.max(at, cut);
  }
  return frames;
}

const refusal = async (work: () => unknown): Promise<string> => {
  try {
    await work();
  } catch (error) {
    expect(error).to.be.instanceOf(ClassifiedError).with.property('kind', 'invalidArgument');
    return (error as Error).message;
  }
  throw new Error('it was accepted');
};

class Compressor {
  readonly #deflate = createDeflate({ dictionary: DICTIONARY, flush: constants.Z_SYNC_FLUSH });
  async write(block: Buffer): Promise<Buffer> {
    await new Promise((resolve) => this.#deflate.write(block, resolve));
    return this.#deflate.read() as Buffer;
  }
}

describe('streaming/spdy framing', () => {
  it('has the dictionary of SPDY/3', () => {
    expect(DICTIONARY.length).to.equal(1423);
    expect(adler32(DICTIONARY)).to.equal(DICTIONARY_ID);
  });

  it('reads every frame, wherever the bytes are cut', () => {
    const bytes = Buffer.concat([
      controlFrame(TYPE.synStream, 1, 7, 0, Buffer.alloc(2), Buffer.from('block')),
      controlFrame(TYPE.headers, 0, 7, Buffer.from('more')),
      controlFrame(TYPE.settings, 0, 1, 7, 100_000),
      controlFrame(5, 0, Buffer.from('a type of another version')),
      controlFrame(TYPE.ping, 0, 11),
      controlFrame(TYPE.windowUpdate, 0, 0, 65_536),
      dataHeader(7, 5, true),
      Buffer.from('hello'),
      dataHeader(9, 0, true),
      controlFrame(TYPE.rstStream, 0, 7, 5),
      controlFrame(TYPE.goAway, 0, 7, 0),
    ]);
    const expected = [
      { type: 'synStream', streamId: 7, fin: true, block: Buffer.from('block') },
      { type: 'headers', streamId: 7, fin: false, block: Buffer.from('more') },
      { type: 'settings', initialWindowBytes: 100_000 },
      { type: 'ping', id: 11 },
      { type: 'windowUpdate', streamId: 0, deltaBytes: 65_536 },
      { type: 'data', streamId: 7, chunk: Buffer.from('hello'), fin: true },
      { type: 'data', streamId: 9, chunk: Buffer.alloc(0), fin: true },
      { type: 'rstStream', streamId: 7, status: 5 },
      { type: 'goAway' },
    ];
    const cut = fc.array(fc.nat(bytes.length), { maxLength: 30 });
    fc.assert(
      fc.property(cut, (cuts) => {
        const frames = read(bytes, cuts).map((frame) => (frame.type === 'ping' ? { type: 'ping', id: frame.id } : frame));
        expect(frames).to.deep.equal(expected);
      }),
    );
  });

  it('passes large data on without gathering it', () => {
    const reader = new FrameReader();
    expect([...reader.push(dataHeader(1, 0xffffff, false))]).to.deep.equal([]);
    const sizes = [...reader.push(Buffer.alloc(100_000))].map((frame) => (frame.type === 'data' ? frame.chunk.length : -1));
    expect(sizes).to.deep.equal([100_000]);
  });

  it('refuses what is no frame', async () => {
    const cases: Array<[Buffer, RegExp]> = [
      [Buffer.from([0x80, 2, 0, 1, 0, 0, 0, 0]), /version 2/],
      [controlFrame(TYPE.synStream, 0, 1), /type 1 with 4 bytes/],
      [controlFrame(TYPE.synStream, 0, 0, 0, Buffer.alloc(2)), /stream 0/],
      [controlFrame(TYPE.ping, 0), /type 6 with 0 bytes/],
      [controlFrame(TYPE.settings, 0, 0xffffffff), /settings of 4 bytes/],
      [controlFrame(TYPE.settings, 0, 1, 7, 0x80000000), /initial window/],
      [Buffer.from([0x80, 3, 0, 1, 0, 0xff, 0xff, 0xff]), new RegExp(`at most ${MAX_CONTROL_BYTES}`)],
      [dataHeader(0, 1, false), /stream 0/],
    ];
    for (const [bytes, words] of cases) expect(await refusal(() => read(bytes))).to.match(words);
  });

  it('throws nothing but invalidArgument on any bytes', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 400 }), fc.boolean(), (noise, control) => {
        const bytes = Buffer.from(noise);
        if (control) Buffer.from([0x80, 3, 0]).copy(bytes);
        try {
          read(bytes);
        } catch (error) {
          expect(error).to.be.instanceOf(ClassifiedError).with.property('kind', 'invalidArgument');
        }
      }),
      { numRuns: 2000 },
    );
  });
});

describe('streaming/spdy headers', () => {
  it('reads blocks of one compressed stream', async () => {
    const [compressor, reader] = [new Compressor(), new HeaderReader()];
    for (const streamtype of ['error', 'stdin', 'stdout', 'stderr', 'resize']) {
      const headers = await reader.read(await compressor.write(headerBlock([['streamtype', streamtype]])));
      expect([...headers]).to.deep.equal([['streamtype', streamtype]]);
    }
    reader.close();
    expect(await refusal(() => reader.read(Buffer.alloc(1)))).to.match(/after the end/);
  });

  it('reads any headers', async () => {
    const text = fc.string({ unit: fc.constantFrom(...'abcdefghijklmnopqrstuvwxyz0123456789-/:. '), minLength: 1, maxLength: 200 });
    const lists = fc.array(fc.uniqueArray(fc.tuple(text, text), { maxLength: 20, selector: ([name]) => name }), { maxLength: 10 });
    await fc.assert(
      fc.asyncProperty(lists, async (blocks) => {
        const [compressor, reader] = [new Compressor(), new HeaderReader()];
        for (const block of blocks) expect([...(await reader.read(await compressor.write(headerBlock(block))))]).to.deep.equal(block);
        reader.close();
      }),
      { numRuns: 50 },
    );
  });

  it('keeps the first of several values, and names in lower case', () => {
    expect([...parse(headerBlock([['Port', '80\x0081']]))]).to.deep.equal([['port', '80']]);
  });

  it('refuses what expands too far', async () => {
    const [compressor, reader] = [new Compressor(), new HeaderReader()];
    const bomb = await compressor.write(Buffer.alloc(10_000_000));
    expect(bomb.length).to.be.lessThan(MAX_CONTROL_BYTES);
    expect(await refusal(() => reader.read(bomb))).to.match(/larger than 65536/);
  });

  it('refuses what is not compressed, and blocks that lie', async () => {
    expect(await refusal(() => new HeaderReader().read(Buffer.from('no zlib at all')))).to.match(/headers/);
    const count = (n: number): Buffer => Buffer.from([0, 0, n >> 8, n & 255]);
    expect(await refusal(() => parse(Buffer.alloc(0)))).to.match(/ends early/);
    expect(await refusal(() => parse(count(65)))).to.match(/at most 64/);
    expect(await refusal(() => parse(Buffer.concat([count(1), Buffer.from([0xff, 0xff, 0xff, 0xff])])))).to.match(/ends early/);
  });

  it('settles on any bytes, and rejects with nothing but invalidArgument', async () => {
    const noise = fc.array(fc.uint8Array({ maxLength: 100 }), { minLength: 1, maxLength: 3 });
    await fc.assert(
      fc.asyncProperty(noise, fc.boolean(), async (blocks, begun) => {
        const [compressor, reader] = [new Compressor(), new HeaderReader()];
        try {
          if (begun) await reader.read(await compressor.write(headerBlock([['streamtype', 'error']])));
          for (const block of blocks) await reader.read(Buffer.from(block));
        } catch (error) {
          expect(error).to.be.instanceOf(ClassifiedError).with.property('kind', 'invalidArgument');
        }
        reader.close();
      }),
      { numRuns: 300 },
    );
  });

  it('writes blocks that any zlib reads, each at once', async () => {
    const [writer, inflate] = [new HeaderWriter(), createInflate({ dictionary: DICTIONARY, flush: constants.Z_SYNC_FLUSH })];
    for (const block of [headerBlock([]), headerBlock([['status', '200']]), headerBlock([])]) {
      await new Promise((resolve) => inflate.write(writer.write(block), resolve));
      expect(inflate.read()).to.deep.equal(block);
    }
  });
});
