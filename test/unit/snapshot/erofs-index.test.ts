import { closeSync, mkdtempSync, openSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect } from 'chai';
import fc from 'fast-check';
import { kindOf } from '../../../src/base/errors.ts';
import type { ReadInode } from '../../../src/snapshot/erofs/format.ts';
import {
  chunkFormat,
  crc32c,
  encodeDevice,
  encodeXattr,
  INODES_OFFSET,
  NID_BYTES,
  patchAttributes,
} from '../../../src/snapshot/erofs/format.ts';
import { IndexReader } from '../../../src/snapshot/erofs/index-reader.ts';
import { writeIndex } from '../../../src/snapshot/erofs/index-writer.ts';
import { LayerIndexer, timeOf } from '../../../src/snapshot/erofs/layer-indexer.ts';
import { TREE_LIMITS } from '../../../src/snapshot/erofs/tree.ts';
import { isAcl } from '../../../src/snapshot/erofs/xattrs.ts';
import type { TarHeader } from '../../../src/snapshot/tar/header.ts';
import { LAYER_LIMITS } from '../../../src/snapshot/tar/layer-rules.ts';

const entry = (name: string, more: Partial<TarHeader> = {}): TarHeader => ({
  name,
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
  ...more,
});
const dir = (name: string, more: Partial<TarHeader> = {}): TarHeader => entry(name, { type: '5', mode: 0o755, ...more });

type Node = ReadInode & { readonly nid: number };
type Tree = ReadonlyMap<string, Node>;

const ROOT_NID = INODES_OFFSET / NID_BYTES;

/** Every path of an index with its inode. */
function walk(reader: IndexReader): Tree {
  const found = new Map<string, Node>([['', { ...reader.inode(ROOT_NID), nid: ROOT_NID }]]);
  const visit = (nid: number, path: string): void => {
    for (const { name, nid: child, fileType } of reader.dirents(nid)) {
      if (name === '.' || name === '..') continue;
      const below = path === '' ? name : `${path}/${name}`;
      found.set(below, { ...reader.inode(child), nid: child });
      if (fileType === 2) visit(child, below);
    }
  };
  visit(ROOT_NID, '');
  return found;
}

describe('snapshot/erofs index', () => {
  let scratch: string;
  beforeEach(() => (scratch = mkdtempSync(join(tmpdir(), 'gantry-test-index-'))));
  afterEach(() => rmSync(scratch, { recursive: true, force: true }));

  function written(
    entries: readonly TarHeader[],
    options: { isBottom?: boolean } = {},
  ): { path: string; implied: string[]; opaqueRoot: boolean } {
    const indexer = new LayerIndexer({ isBottom: options.isBottom ?? false });
    let offset = 0;
    for (const each of entries) {
      offset += 512;
      indexer.entry(each, offset);
      offset += Math.ceil(each.sizeBytes / 512) * 512;
    }
    const contents = indexer.end();
    const path = join(scratch, 'index');
    const fd = openSync(path, 'w');
    writeIndex(fd, contents, { digest: 'ab'.repeat(32), sizeBytes: offset });
    closeSync(fd);
    return { path, implied: contents.impliedDirs.map((inode) => contents.tree.pathOf(inode)), opaqueRoot: contents.opaqueRoot };
  }

  function indexed(entries: readonly TarHeader[], options: { isBottom?: boolean } = {}): Tree {
    using reader = new IndexReader(written(entries, options).path);
    return walk(reader);
  }

  const paths = (entries: readonly TarHeader[], options: { isBottom?: boolean } = {}): string[] =>
    [...indexed(entries, options).keys()].filter((path) => path !== '').sort();

  const refusal = (entries: readonly TarHeader[]): string => {
    try {
      written(entries);
      return 'none';
    } catch (error) {
      return kindOf(error);
    }
  };

  it('says of every inode what the archive said', () => {
    const tree = indexed([
      dir('./', { mode: 0o751, uid: 3, gid: 4, mtime: '77' }),
      entry('f', { mode: 0o4755, uid: 3_000_000, gid: 4_000_000_000, sizeBytes: 1000, mtime: '1234567890.123456789' }),
      entry('d/c', { type: '3', devMajor: 1, devMinor: 300, mode: 0o666 }),
      entry('d/l', { type: '2', linkName: '../f', mode: 0 }),
      entry('d/p', { type: '6', mtime: '-1.5' }),
      entry('g', { type: '1', linkName: 'f' }),
    ]);
    expect(tree.get('')).to.include({ mode: 0o40751, uid: 3, gid: 4, mtimeSeconds: 77, nlink: 3 });
    expect(tree.get('f')).to.include({ mode: 0o104755, uid: 3_000_000, gid: 4_000_000_000, sizeBytes: 1000, nlink: 2 });
    expect(tree.get('f')).to.include({ mtimeSeconds: 1_234_567_890, mtimeNs: 123_456_789 });
    expect(tree.get('g')?.nid).to.equal(tree.get('f')?.nid);
    expect(tree.get('d/c')).to.include({ mode: 0o20666, union: encodeDevice(1, 300) });
    expect(tree.get('d/l')).to.include({ mode: 0o120777, sizeBytes: 4 });
    expect(tree.get('d/p')).to.include({ mode: 0o10644, mtimeSeconds: -2, mtimeNs: 500_000_000 });
  });

  it('is the same for the same layer, byte for byte', () => {
    const entries = [
      dir('b'),
      entry('b/x', { xattrs: new Map([['user.a', '1']]), sizeBytes: 3 }),
      entry('a'),
      entry('c', { type: '1', linkName: 'a' }),
    ];
    const first = readFileSync(written(entries).path);
    expect(readFileSync(written(entries).path).equals(first)).to.equal(true);
    expect(first.length % 4096).to.equal(0);
  });

  it('lets the last entry of a name win', () => {
    expect(paths([dir('x'), entry('x/in'), entry('x')]), 'a file for a directory').to.deep.equal(['x']);
    expect(paths([entry('x'), dir('x'), entry('x/in')]), 'a directory for a file').to.deep.equal(['x', 'x/in']);
    expect(paths([dir('x'), entry('x/in'), entry('x'), dir('x')]), 'what was replaced is gone').to.deep.equal(['x']);
    const again = indexed([dir('x'), entry('x/in'), dir('x', { mode: 0o700 })]);
    expect([again.get('x')?.mode, again.has('x/in')]).to.deep.equal([0o40700, true]);
    const relinked = indexed([entry('a', { uid: 1 }), entry('b', { type: '1', linkName: 'a' }), entry('a', { uid: 2 })]);
    expect([relinked.get('a')?.uid, relinked.get('b')?.uid, relinked.get('b')?.nlink]).to.deep.equal([2, 1, 1]);
  });

  it('tells of directories nobody described, wherever their description comes', () => {
    expect(written([entry('a/b/c'), dir('a')]).implied.sort()).to.deep.equal(['', 'a/b']);
    expect(written([dir('./'), entry('.wh.x')]).implied).to.deep.equal([]);
  });

  it('turns whiteouts into devices and attributes, for what is below only', () => {
    const entries = [
      entry('.wh.gone'),
      entry('.wh.r'),
      dir('r'),
      entry('r/new'),
      entry('o/.wh..wh..opq'),
      entry('.wh.file'),
      entry('file'),
      entry('d/.wh.x'),
      entry('d'),
      entry('.wh..wh.aufs'),
      entry('.wh..wh.plnk/1'),
    ];
    const tree = indexed(entries);
    expect([...tree.keys()].sort()).to.deep.equal(['', 'd', 'file', 'gone', 'o', 'r', 'r/new']);
    expect(tree.get('gone')).to.include({ mode: 0o20000, union: 0 });
    expect(tree.get('file')?.mode).to.equal(0o100644);
    for (const path of ['o', 'r']) expect(tree.get(path)?.xattrBytes, path).to.be.greaterThan(0);
    expect(paths(entries, { isBottom: true })).to.deep.equal(['d', 'file', 'o', 'r', 'r/new']);
    expect(written([entry('.wh..wh..opq'), entry('x')]).opaqueRoot).to.equal(true);
  });

  it('follows the symlinks of the layer, within the layer', () => {
    const up = '../'.repeat(9);
    expect(paths([dir('a'), entry('l', { type: '2', linkName: 'a' }), entry('l/x')])).to.deep.equal(['a', 'a/x', 'l']);
    expect(paths([entry('l', { type: '2', linkName: `${up}b/c` }), entry('l/x')])).to.deep.equal(['b', 'b/c', 'b/c/x', 'l']);
    expect(paths([entry('d/l', { type: '2', linkName: '/' }), entry('d/l/x')])).to.deep.equal(['d', 'd/l', 'x']);
    expect(paths([entry('l', { type: '2', linkName: 'a' }), dir('l'), entry('l/x')])).to.deep.equal(['l', 'l/x']);
    expect(paths([dir('a'), entry('l', { type: '2', linkName: 'a' }), entry('l/x'), entry('l'), dir('l'), entry('l/y')])).to.deep.equal([
      'a',
      'a/x',
      'l',
      'l/y',
    ]);
    expect(refusal([entry('l', { type: '2', linkName: 'l' }), entry('l/x')]), 'a loop').to.equal('failedPrecondition');
    expect(refusal([entry('f'), entry('f/x')]), 'below a file').to.equal('failedPrecondition');
  });

  it('refuses what can not be', () => {
    expect(refusal([entry('h', { type: '1', linkName: 'elsewhere' })]), 'a link into a lower layer').to.equal('failedPrecondition');
    expect(refusal([dir('d'), entry('h', { type: '1', linkName: 'd' })]), 'a link to a directory').to.equal('failedPrecondition');
    expect(refusal([entry('f', { uid: 2 ** 32 })])).to.equal('failedPrecondition');
    expect(refusal([entry('f', { uid: -1 })])).to.equal('failedPrecondition');
    expect(refusal([entry('n'.repeat(256))])).to.equal('failedPrecondition');
    expect(refusal([entry('c', { type: '3', devMajor: 4096 })])).to.equal('failedPrecondition');
    expect(refusal([entry('s', { type: 'S' })])).to.equal('failedPrecondition');
    expect(refusal([entry('a', { xattrs: new Map([['system.posix_acl_access', 'rubbish']]) })])).to.equal('failedPrecondition');
    expect(refusal([entry('a', { xattrs: new Map([['user.x', 'v'.repeat(65_536)]]) })])).to.equal('failedPrecondition');
  });

  it('holds to its limits (S3)', () => {
    const kindWith = (options: object, entries: readonly TarHeader[]): string => {
      const indexer = new LayerIndexer({ isBottom: true, ...options });
      try {
        entries.forEach((each) => indexer.entry(each, 512));
        return 'none';
      } catch (error) {
        return kindOf(error);
      }
    };
    const few = { limits: { ...LAYER_LIMITS, maxEntries: 2 } };
    expect(kindWith(few, [entry('a'), entry('b')])).to.equal('none');
    expect(kindWith(few, [entry('a'), entry('b'), entry('c')])).to.equal('resourceExhausted');
    expect(kindWith({ treeLimits: { ...TREE_LIMITS, maxDepth: 3 } }, [entry('a/b/c/f')])).to.equal('none');
    expect(kindWith({ treeLimits: { ...TREE_LIMITS, maxDepth: 3 } }, [entry('a/b/c/d/f')])).to.equal('resourceExhausted');
    expect(kindWith({ treeLimits: { ...TREE_LIMITS, maxTextBytes: 10 } }, [entry('abcdef'), entry('ghijkl')])).to.equal(
      'resourceExhausted',
    );
    const heavy = Array.from({ length: 6 }, (_, n) => [`user.${n}`, 'v'.repeat(60_000)] as const);
    expect(kindWith({}, [entry('a', { xattrs: new Map(heavy) })])).to.equal('resourceExhausted');
    // Each symlink leads deeper than a path could.
    const deep = 'd/'.repeat(1000);
    const ladder = Array.from({ length: 4 }, (_, n) => [
      entry(`l${n}`, { type: '2', linkName: n === 0 ? deep : `l${n - 1}/${deep}` }),
      dir(`l${n}/d`),
    ]);
    expect(kindWith({}, ladder.flat())).to.equal('resourceExhausted');
  });

  it('finds every name in directories of any size, and keeps attributes of any size', () => {
    const byte = fc.integer({ min: 1, max: 255 }).filter((code) => code !== 0x2f);
    const name = fc.array(byte, { minLength: 1, maxLength: 60 }).map((codes) => String.fromCharCode(...codes));
    const names = fc.uniqueArray(
      name.filter((text) => text !== '.' && text !== '..' && !text.startsWith('.wh.')),
      { maxLength: 120 },
    );
    fc.assert(
      fc.property(names, fc.nat(700), (all, valueLength) => {
        const xattrs = new Map([['user.v', 'v'.repeat(valueLength)]]);
        const { path } = written([dir('d', { xattrs }), ...all.map((each) => dir(`d/${each}`, { uid: each.length }))]);
        using reader = new IndexReader(path);
        for (const each of all) expect(reader.dir(`d/${each}`)?.uid).to.equal(each.length);
        expect(reader.dir('d/absent-'.padEnd(80, 'x'))).to.equal(undefined);
        const listed = [...reader.dirents(walk(reader).get('d')?.nid ?? 0)].map((dirent) => dirent.name);
        expect(listed).to.deep.equal([...all, '.', '..'].sort());
      }),
      { numRuns: 40 },
    );
  });

  it('has room for files beyond any tar, and for many', function () {
    this.timeout(60_000);
    const huge = 20 * 2 ** 30 + 1;
    const tree = indexed([entry('huge', { sizeBytes: huge }), entry('after', { sizeBytes: 1 })]);
    expect(tree.get('huge')?.sizeBytes).to.equal(huge);
    const many = Array.from({ length: 100_000 }, (_, n) => entry(`d${n % 10}/${n}`, { sizeBytes: n % 3 }));
    expect(indexed(many)).to.have.property('size', 100_011);
  });

  it('takes the attributes of a directory later', () => {
    const { path } = written([entry('d/f')]);
    const bytes = readFileSync(path);
    using reader = new IndexReader(path);
    const at = (walk(reader).get('d')?.nid ?? 0) * NID_BYTES;
    patchAttributes(bytes, at, { mode: 0o41777, uid: 5, gid: 6, mtimeSeconds: -7, mtimeNs: 8 });
    expect(bytes.readUInt16LE(at + 4)).to.equal(0o41777);
    expect(bytes.readBigInt64LE(at + 32)).to.equal(-7n);
  });

  it('reckons as the format has it', () => {
    expect(crc32c(Buffer.from('123456789'))).to.equal(~0xe3069283 >>> 0);
    expect([1, 512, 513, 1 << 20, 20 * 2 ** 30].map((size) => chunkFormat(size) & 31)).to.deep.equal([0, 0, 1, 11, 26]);
    expect(timeOf('5')).to.deep.equal({ mtimeSeconds: 5, mtimeNs: 0 });
    expect(timeOf('-0.25')).to.deep.equal({ mtimeSeconds: -1, mtimeNs: 750_000_000 });
    expect(timeOf('-3.000')).to.deep.equal({ mtimeSeconds: -3, mtimeNs: 0 });
    expect(encodeXattr('user.ab', 'c')?.toString('hex')).to.equal('02010100616263' + '00');
    expect(encodeXattr('system.posix_acl_access', 'x')?.[1]).to.equal(2);
    for (const bad of ['user.', 'other.x', 'system.posix_acl_access2', `user.${'n'.repeat(256)}`])
      expect(encodeXattr(bad, ''), bad).to.equal(undefined);
    const acl = Buffer.alloc(4 + 3 * 8);
    acl.writeUInt32LE(2);
    [1, 4, 0x20].forEach((tag, index) => acl.writeUInt16LE(tag, 4 + index * 8));
    expect([isAcl(acl.toString('latin1')), isAcl(acl.subarray(0, 20).toString('latin1')), isAcl('')]).to.deep.equal([true, false, false]);
  });
});
