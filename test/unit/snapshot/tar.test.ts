import { expect } from 'chai';
import fc from 'fast-check';
import type { Header } from 'tar-stream';
import { pack } from 'tar-stream';
import { kindOf } from '../../../src/base/errors.ts';
import type { TarHeader } from '../../../src/snapshot/tar/header.ts';
import { BLOCK_BYTES, encodeHeader, parseHeader } from '../../../src/snapshot/tar/header.ts';
import { applyPax, parsePax } from '../../../src/snapshot/tar/pax.ts';
import { TarReader } from '../../../src/snapshot/tar/reader.ts';

interface Read {
  readonly header: TarHeader;
  content: string;
  ended: boolean;
}

/** Reads a whole archive, handed over in pieces of the sizes given, over and over. */
function readAll(tar: Buffer, pieceBytes: readonly number[] = [tar.length + 1]): Read[] {
  const entries: Read[] = [];
  const last = (): Read => entries.at(-1) as Read;
  const reader = new TarReader({
    entry: (header) => void entries.push({ header, content: '', ended: false }),
    data: (piece) => void (last().content += piece.toString('latin1')),
    endEntry: () => void (last().ended = true),
  });
  for (let at = 0, n = 0; at < tar.length; n++) {
    const length = pieceBytes[n % pieceBytes.length] ?? 1;
    reader.push(tar.subarray(at, at + length));
    at += length;
  }
  reader.end();
  return entries;
}

async function tarOf(entries: ReadonlyArray<Partial<Header> & { name: string; content?: string }>): Promise<Buffer> {
  const archive = pack();
  for (const { content, ...header } of entries) archive.entry({ mtime: new Date(0), ...header } as Header, content ?? '');
  archive.finalize();
  const chunks: Buffer[] = [];
  for await (const chunk of archive) chunks.push(chunk as Buffer);
  return Buffer.concat(chunks);
}

const HEADER: TarHeader = {
  name: 'a',
  type: '0',
  mode: 0o644,
  uid: 0,
  gid: 0,
  sizeBytes: 0,
  mtime: '0',
  linkName: '',
  devMajor: 0,
  devMinor: 0,
  xattrs: new Map(),
};
const END = Buffer.alloc(2 * BLOCK_BYTES);
const archive = (...parts: Buffer[]): Buffer => Buffer.concat([...parts, END]);
const withContent = (header: TarHeader, content: string): Buffer => {
  const body = Buffer.from(content, 'latin1');
  const padded = Buffer.alloc(Math.ceil(body.length / BLOCK_BYTES) * BLOCK_BYTES);
  body.copy(padded);
  return Buffer.concat([encodeHeader({ ...header, sizeBytes: body.length }), padded]);
};
const kindOfReading = (tar: Buffer): string => {
  try {
    readAll(tar);
    return 'none';
  } catch (error) {
    return kindOf(error);
  }
};
/** A header with raw bytes changed and its checksum made right again. */
function patched(header: TarHeader, change: (block: Buffer) => void): Buffer {
  const block = encodeHeader(header);
  change(block);
  block.fill(' ', 148, 156);
  const sum = block.reduce((total, byte) => total + byte, 0);
  block.write(`${sum.toString(8).padStart(6, '0')}\0 `, 148, 'latin1');
  return block;
}

describe('snapshot/tar/reader', () => {
  it('reads what tar-stream writes, in pieces of any size', async () => {
    const tar = await tarOf([
      { name: 'dir/', type: 'directory', mode: 0o755 },
      { name: 'dir/file', content: 'x'.repeat(1000), uid: 7, gid: 8, mode: 0o4711 },
      { name: `${'d/'.repeat(150)}long`, content: 'deep' },
      { name: 'link', type: 'symlink', linkname: `/${'t'.repeat(200)}` },
      { name: 'dev', type: 'character-device', devmajor: 1, devminor: 3 },
      { name: 'empty' },
      { name: 'pax', pax: { 'SCHILY.xattr.user.a': 'b', mtime: '1.5', path: 'renamed' }, content: 'y'.repeat(512) },
    ]);
    const whole = readAll(tar);
    expect(whole.map(({ header }) => header.name)).to.deep.equal([
      'dir/',
      'dir/file',
      `${'d/'.repeat(150)}long`,
      'link',
      'dev',
      'empty',
      'renamed',
    ]);
    expect(whole[1]?.header).to.include({ uid: 7, gid: 8, mode: 0o4711, sizeBytes: 1000 });
    expect(whole[3]?.header.linkName).to.equal(`/${'t'.repeat(200)}`);
    expect(whole[4]?.header).to.include({ type: '3', devMajor: 1, devMinor: 3 });
    expect(whole[6]?.header.mtime).to.equal('1.5');
    expect([...(whole[6]?.header.xattrs ?? [])]).to.deep.equal([['user.a', 'b']]);
    expect(whole.every(({ ended }) => ended)).to.equal(true);
    fc.assert(
      fc.property(fc.array(fc.integer({ min: 1, max: 1500 }), { minLength: 1, maxLength: 8 }), (sizes) => {
        expect(readAll(tar, sizes)).to.deep.equal(whole);
      }),
      { numRuns: 60 },
    );
  });

  it('reads GNU long names and links, and passes over global headers', () => {
    const long = 'n'.repeat(300);
    const tar = archive(
      withContent({ ...HEADER, name: 'pax_global_header', type: 'g' }, '20 comment=abcdefgh\n'),
      withContent({ ...HEADER, name: '././@LongLink', type: 'L' }, `${long}\0`),
      withContent({ ...HEADER, name: '././@LongLink', type: 'K' }, `${long}2\0`),
      encodeHeader({ ...HEADER, name: 'short', type: '2', linkName: 'short' }),
      encodeHeader({ ...HEADER, name: 'next' }),
    );
    const [first, second] = readAll(tar);
    expect(first?.header).to.include({ name: long, linkName: `${long}2` });
    expect(second?.header).to.include({ name: 'next', linkName: '' });
  });

  it('reads base-256 numbers, prefixes, and old archives', () => {
    const big = patched({ ...HEADER, name: 'big' }, (block) => {
      block.fill(0, 108, 116);
      block[108] = 0x80;
      block.writeUInt32BE(4_000_000_000, 112);
    });
    const prefixed = patched({ ...HEADER, name: 'base' }, (block) => void block.write('some/prefix', 345, 'latin1'));
    const old = patched({ ...HEADER, name: 'olddir/' }, (block) => {
      block.fill(0, 257, 265);
      block[156] = 0;
    });
    const entries = readAll(archive(big, prefixed, old));
    expect(entries[0]?.header.uid).to.equal(4_000_000_000);
    expect(entries[1]?.header.name).to.equal('some/prefix/base');
    expect(entries[2]?.header).to.include({ name: 'olddir/', type: '5' });
  });

  it('reads octal numbers as programs write them, and refuses what is none', () => {
    const withUid = (field: string): Buffer =>
      patched({ ...HEADER, name: 'n' }, (block) => {
        block.fill(0, 108, 116);
        block.write(field, 108, 'latin1');
      });
    for (const [field, uid] of [
      ['0000644\0', 0o644],
      ['000644 \0', 0o644],
      ['0000644 ', 0o644],
      ['    644 ', 0o644],
      ['77777777', 0o77777777],
      ['644\x001', 0o644],
      ['\0\x0099', 0],
      ['', 0],
      ['        ', 0],
    ] as const)
      expect(readAll(withUid(field))[0]?.header.uid, JSON.stringify(field)).to.equal(uid);
    for (const field of ['648', '64 4', '-1', 'a', '644x', '    8'])
      expect(kindOfReading(withUid(field)), JSON.stringify(field)).to.equal('dataLoss');
  });

  it('takes no content for links and devices, whatever their size says', () => {
    const tar = archive(
      encodeHeader({ ...HEADER, name: 'l', type: '1', linkName: 'x', sizeBytes: 5000 }),
      encodeHeader({ ...HEADER, name: 'b' }),
    );
    expect(readAll(tar).map(({ header }) => [header.name, header.sizeBytes])).to.deep.equal([
      ['l', 0],
      ['b', 0],
    ]);
  });

  it('ends at two blocks of zeros or at the end of the bytes, and ignores what follows', () => {
    expect(readAll(Buffer.alloc(0))).to.deep.equal([]);
    expect(readAll(encodeHeader(HEADER))).to.have.length(1);
    expect(readAll(Buffer.concat([archive(encodeHeader(HEADER)), Buffer.from('rubbish')]))).to.have.length(1);
  });

  it('refuses damage as dataLoss', () => {
    const good = withContent(HEADER, 'x'.repeat(600));
    expect(kindOfReading(good.subarray(0, 700)), 'cut in content').to.equal('dataLoss');
    expect(kindOfReading(good.subarray(0, 100)), 'cut in a header').to.equal('dataLoss');
    expect(kindOfReading(Buffer.concat([good, Buffer.alloc(BLOCK_BYTES), good])), 'a lone zero block').to.equal('dataLoss');
    expect(kindOfReading(Buffer.alloc(BLOCK_BYTES, 'x')), 'no header').to.equal('dataLoss');
    const flipped = Buffer.from(good);
    flipped[0] = 0x7a;
    expect(kindOfReading(flipped), 'checksum').to.equal('dataLoss');
    expect(kindOfReading(archive(withContent({ ...HEADER, type: 'x' }, 'no records\n'), encodeHeader(HEADER)))).to.equal('dataLoss');
    expect(kindOfReading(withContent({ ...HEADER, type: 'x' }, '9 path=a\n')), 'nothing after an extension').to.equal('dataLoss');
    const negative = patched(HEADER, (block) => block.fill(0xff, 124, 136));
    expect(kindOfReading(archive(negative)), 'negative size').to.equal('dataLoss');
  });

  it('refuses an extension header that would fill the memory', () => {
    expect(kindOfReading(encodeHeader({ ...HEADER, type: 'x', sizeBytes: 2 ** 33 - 1 }))).to.equal('resourceExhausted');
    expect(kindOfReading(encodeHeader({ ...HEADER, type: 'L', sizeBytes: 2 ** 21 }))).to.equal('resourceExhausted');
  });

  it('survives any bytes: an answer or a classified error', () => {
    const good = archive(withContent({ ...HEADER, type: 'x' }, '9 path=a\n'), withContent(HEADER, 'content'), encodeHeader(HEADER));
    fc.assert(
      fc.property(fc.array(fc.tuple(fc.nat(good.length - 1), fc.nat(255)), { maxLength: 6 }), (changes) => {
        const bytes = Buffer.from(good);
        for (const [at, value] of changes) bytes[at] = value;
        expect(kindOfReading(bytes)).to.be.oneOf(['none', 'dataLoss', 'resourceExhausted']);
      }),
      { numRuns: 300 },
    );
  });
});

describe('snapshot/tar/header', () => {
  const bytes = fc.string({
    unit: fc.integer({ min: 1, max: 255 }).map((code) => String.fromCharCode(code)),
    minLength: 1,
    maxLength: 400,
  });

  it('writes headers that read back the same', () => {
    const headers = fc.record({
      name: bytes,
      linkName: bytes,
      type: fc.constantFrom('0', '1', '2', '5', '6'),
      mode: fc.nat(0o7777),
      uid: fc.nat(2 ** 31),
      gid: fc.nat(2 ** 31),
      mtime: fc.constantFrom('0', '1700000000', '-5', '1.25', '1700000000.123456789'),
      devMajor: fc.nat(0o7777777),
      devMinor: fc.nat(0o7777777),
      xattrs: fc.dictionary(fc.constantFrom('user.a', 'user.b', 'security.capability'), bytes).map((o) => new Map(Object.entries(o))),
    });
    fc.assert(
      fc.property(headers, (fields) => {
        const header: TarHeader = { ...fields, sizeBytes: 0 };
        const [read] = readAll(archive(encodeHeader(header)));
        expect(read?.header).to.deep.equal(header);
      }),
      { numRuns: 200 },
    );
  });

  it('writes sizes beyond eight gigabytes', () => {
    const block = encodeHeader({ ...HEADER, sizeBytes: 2 ** 35 });
    const records = parsePax(block.subarray(BLOCK_BYTES, block.indexOf(0, BLOCK_BYTES)));
    expect(applyPax(parseHeader(block.subarray(-BLOCK_BYTES)), records).sizeBytes).to.equal(2 ** 35);
  });
});
