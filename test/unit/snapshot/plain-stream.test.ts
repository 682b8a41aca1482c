import { randomBytes } from 'node:crypto';
import { closeSync, mkdtempSync, openSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { gzipSync, zstdCompressSync } from 'node:zlib';
import { expect } from 'chai';
import { kindOf } from '../../../src/base/errors.ts';
import { IsalGunzip } from '../../../src/os/isal.ts';
import type { Compression } from '../../../src/snapshot/plain-input.ts';
import { streamErrorKind, streamPlain } from '../../../src/snapshot/plain-stream.ts';

type OpenIsal = typeof IsalGunzip.open;

const TEXT = Buffer.from('etc/passwd root:x:0:0:root:/root:/bin/sh '.repeat(50_000));
const NOISE = randomBytes(700_000);
const MIXED = Buffer.concat([TEXT, NOISE, TEXT, Buffer.alloc(3_000_000), NOISE]);

/** RFC 1952 with every optional part: FTEXT, FHCRC left out, FEXTRA, FNAME, FCOMMENT. */
function withHeaderFields(packed: Buffer): Buffer {
  const header = Buffer.from(packed.subarray(0, 10));
  header[3] = 1 | 4 | 8 | 16;
  const extra = Buffer.from([6, 0, 0x41, 0x42, 2, 0, 7, 7]);
  return Buffer.concat([header, extra, Buffer.from('layer.tar\0'), Buffer.from('a comment\0'), packed.subarray(10)]);
}

const changed = (bytes: Buffer, at: number): Buffer => {
  const copy = Buffer.from(bytes);
  copy[at < 0 ? copy.length + at : at]! ^= 0x55;
  return copy;
};

const GOOD: Record<string, [Buffer, Buffer]> = {
  'nothing compressed': [gzipSync(Buffer.alloc(0)), Buffer.alloc(0)],
  'one byte': [gzipSync('x'), Buffer.from('x')],
  'text, noise and zeros': [gzipSync(MIXED), MIXED],
  'stored blocks': [gzipSync(MIXED, { level: 0 }), MIXED],
  'the fastest level': [gzipSync(MIXED, { level: 1 }), MIXED],
  'fixed Huffman codes': [gzipSync(MIXED, { strategy: 4 }), MIXED],
  'a header with every field': [withHeaderFields(gzipSync(TEXT)), TEXT],
  'many members, as pigz and bgzip write them': [
    Buffer.concat(Array.from({ length: 200 }, (_, n) => gzipSync(MIXED.subarray(n * 30_000, (n + 1) * 30_000)))),
    MIXED.subarray(0, 6_000_000),
  ],
  'an empty member among others': [Buffer.concat([gzipSync('a'), gzipSync(''), gzipSync('b')]), Buffer.from('ab')],
  'zeros behind it': [Buffer.concat([gzipSync(TEXT), Buffer.alloc(10_000)]), TEXT],
};

const packed = gzipSync(MIXED);
const BAD: Record<string, Buffer> = {
  'cut off in the data': packed.subarray(0, packed.length - 1000),
  'cut off in the checksum': packed.subarray(0, packed.length - 6),
  'cut off in the header': packed.subarray(0, 7),
  'another checksum': changed(packed, -8),
  'another length': changed(packed, -1),
  'a flipped byte in the data': changed(packed, packed.length >> 1),
  'no gzip': NOISE,
  'another method': changed(packed, 2),
  'something else behind it': Buffer.concat([packed, Buffer.from('this is no member of gzip')]),
  'a second member that is cut off': Buffer.concat([packed, packed.subarray(0, 100_000)]),
};

describe('snapshot/plain-stream', () => {
  let dir: string;
  before(() => void (dir = mkdtempSync(join(tmpdir(), 'plain-'))));
  after(() => rmSync(dir, { recursive: true }));

  async function plainOf(bytes: Buffer, inflate: Compression, openIsal?: OpenIsal): Promise<Buffer> {
    const path = join(dir, 'blob');
    writeFileSync(path, bytes);
    const fd = openSync(path, 'r');
    const parts: Buffer[] = [];
    try {
      await streamPlain({ fd, inflate, sizeBytes: bytes.length, port: undefined }, (chunk) => parts.push(Buffer.from(chunk)), openIsal);
    } finally {
      closeSync(fd);
    }
    return Buffer.concat(parts);
  }

  const inflaters: Record<string, OpenIsal> = { zlib: () => undefined, 'ISA-L': IsalGunzip.open };

  for (const [name, openIsal] of Object.entries(inflaters)) {
    describe(`gzip by ${name}`, () => {
      before(function () {
        if (name === 'zlib' || openIsal() !== undefined) return;
        if (process.env['CI'] === 'true') throw new Error('no libisal.so.2: hack/install run brings it');
        this.skip();
      });

      for (const [what, [bytes, plain]] of Object.entries(GOOD)) {
        it(what, async () => {
          const got = await plainOf(bytes, 'gzip', openIsal);
          expect(got.length).to.equal(plain.length);
          expect(got.equals(plain)).to.equal(true);
        });
      }

      for (const [what, bytes] of Object.entries(BAD)) {
        it(`${what}: dataLoss`, async () => {
          const error: unknown = await plainOf(bytes, 'gzip', openIsal).then(
            () => undefined,
            (reason: unknown) => reason,
          );
          expect(error, 'it was taken for whole').to.be.instanceOf(Error);
          expect(streamErrorKind(error), String(error)).to.equal('dataLoss');
        });
      }

      it('what `take` throws is what comes out', async () => {
        const path = join(dir, 'refused');
        writeFileSync(path, packed);
        const fd = openSync(path, 'r');
        const refusal = new Error('enough');
        const source = { fd, inflate: 'gzip' as const, sizeBytes: packed.length, port: undefined };
        const refuse = (): never => {
          throw refusal;
        };
        const error: unknown = await streamPlain(source, refuse, openIsal).catch((reason: unknown) => reason);
        closeSync(fd);
        expect(error).to.equal(refusal);
        expect(kindOf(error)).to.equal('internal');
      });
    });
  }

  it('zstd, and what is not compressed', async () => {
    expect((await plainOf(zstdCompressSync(MIXED), 'zstd')).equals(MIXED)).to.equal(true);
    expect((await plainOf(MIXED, 'none')).equals(MIXED)).to.equal(true);
  });
});
