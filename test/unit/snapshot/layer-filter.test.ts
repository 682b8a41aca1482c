import { expect } from 'chai';
import { kindOf } from '../../../src/base/errors.ts';
import type { TarHeader } from '../../../src/snapshot/tar/header.ts';
import type { LayerChanges } from '../../../src/snapshot/tar/layer-filter.ts';
import { LayerFilter } from '../../../src/snapshot/tar/layer-filter.ts';
import { LAYER_LIMITS } from '../../../src/snapshot/tar/layer-rules.ts';
import { TarReader } from '../../../src/snapshot/tar/reader.ts';

const header = (name: string, more: Partial<TarHeader> = {}): TarHeader => ({
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

function filtered(headers: readonly TarHeader[], limits = LAYER_LIMITS): { changes: LayerChanges; entries: TarHeader[] } {
  const written: Buffer[] = [];
  const filter = new LayerFilter((bytes) => void written.push(Buffer.from(bytes)), limits);
  for (const each of headers) {
    filter.entry(each);
    filter.endEntry();
  }
  const changes = filter.end();
  const entries: TarHeader[] = [];
  const reader = new TarReader({ entry: (each) => void entries.push(each), data: () => undefined, endEntry: () => undefined });
  reader.push(Buffer.concat(written));
  reader.end();
  return { changes, entries };
}

const refusal = (...headers: TarHeader[]): string => {
  try {
    filtered(headers);
    return 'none';
  } catch (error) {
    return kindOf(error);
  }
};

describe('snapshot/tar/layer-filter', () => {
  it('hands on relative names only', () => {
    const { entries } = filtered([
      header('/etc//passwd'),
      header('./a/./b/', { type: '5' }),
      header('.', { type: '5' }),
      header('c', { type: '1', linkName: '/etc/passwd' }),
    ]);
    expect(entries.map(({ name, linkName }) => [name, linkName])).to.deep.equal([
      ['etc/passwd', ''],
      ['a/b/', ''],
      ['./', ''],
      ['c', 'etc/passwd'],
    ]);
  });

  it('leaves the targets of symlinks alone', () => {
    const target = '../../../etc//passwd';
    expect(filtered([header('s', { type: '2', linkName: target })]).entries[0]?.linkName).to.equal(target);
  });

  it('refuses what no layer may hold', () => {
    for (const bad of [
      header('..'),
      header('a/../../b'),
      header('a\0b'),
      header('a', { type: '1', linkName: '../x' }),
      header('a', { type: '1', linkName: '/' }),
      header('a', { type: '2', linkName: '' }),
      header('a', { type: 'S' }),
      header('a', { type: 'M' }),
      header('a', { type: 'V' }),
      header('/', { type: '0' }),
      header('.wh.'),
      header('d/.wh..'),
      header('.wh...'),
      header('.wh.x', { type: '5' }),
      header('.wh.x', { type: '2', linkName: 'y' }),
      header('.wh.x/y'),
    ])
      expect(refusal(bad), JSON.stringify(bad)).to.equal('failedPrecondition');
  });

  it('drops attributes that are not for an image to set', () => {
    const names = [
      'trusted.overlay.redirect',
      'trusted.overlay.opaque',
      'security.selinux',
      'security.ima',
      'security.capability',
      'user.x',
      'system.posix_acl_access',
    ];
    const xattrs = new Map(names.map((name) => [name, 'v']));
    const { entries } = filtered([header('f', { xattrs }), header('l', { type: '2', linkName: 't', xattrs })]);
    expect([...(entries[0]?.xattrs.keys() ?? [])]).to.deep.equal(['security.capability', 'user.x', 'system.posix_acl_access']);
    expect([...(entries[1]?.xattrs.keys() ?? [])]).to.deep.equal(['security.capability', 'system.posix_acl_access']);
  });

  it('collects whiteouts, opaque directories and markers', () => {
    const { changes } = filtered([
      header('.wh.top'),
      header('a/b/.wh.c'),
      header('a/.wh..wh..opq'),
      header('.wh..wh.plnk', { type: '5' }),
      header('.wh..wh.plnk/12.34'),
      header('x.wh.y'),
    ]);
    expect(changes.whiteouts).to.deep.equal(['top', 'a/b/c']);
    expect(changes.opaques).to.deep.equal(['a']);
    expect(changes.markers).to.deep.equal(['.wh.top', 'a/b/.wh.c', 'a/.wh..wh..opq', '.wh..wh.plnk']);
    expect(changes.entries).to.equal(6);
  });

  it('tells directories that have no entry of their own, parents first', () => {
    const implied = (...headers: TarHeader[]): readonly string[] => filtered(headers).changes.impliedDirs;
    expect(implied()).to.deep.equal(['']);
    expect(implied(header('./', { type: '5' }), header('a', { type: '5' }), header('a/b/c/d'))).to.deep.equal(['a/b', 'a/b/c']);
    // An entry that comes later counts too.
    expect(implied(header('a/b'), header('a', { type: '5' }), header('', { type: '5' }))).to.deep.equal([]);
  });

  it('holds to its limits (S3)', () => {
    const kind = (limits: Partial<typeof LAYER_LIMITS>, ...headers: TarHeader[]): string => {
      try {
        filtered(headers, { ...LAYER_LIMITS, ...limits });
        return 'none';
      } catch (error) {
        return kindOf(error);
      }
    };
    expect(kind({ maxEntries: 2 }, header('a'), header('b'))).to.equal('none');
    expect(kind({ maxEntries: 2 }, header('a'), header('b'), header('c'))).to.equal('resourceExhausted');
    expect(kind({ maxSizeBytes: 10_000 }, header('a', { sizeBytes: 20_000 }))).to.equal('resourceExhausted');
    expect(kind({}, header('a/'.repeat(2048)))).to.equal('resourceExhausted');
    expect(kind({}, header('a', { type: '2', linkName: 'x'.repeat(4096) }))).to.equal('resourceExhausted');
    expect(kind({ maxTrackedBytes: 1000 }, ...Array.from({ length: 100 }, (_, n) => header(`.wh.${n}`)))).to.equal('resourceExhausted');
    expect(kind({ maxTrackedBytes: 1000 }, ...Array.from({ length: 100 }, (_, n) => header(`d${n}/f`)))).to.equal('resourceExhausted');
  });
});
