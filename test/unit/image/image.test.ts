import { expect } from 'chai';
import { mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { digestOf } from '../../../src/base/digest.ts';
import { silentLogger } from '../../../src/base/log.ts';
import { newOp } from '../../../src/base/op.ts';
import { createLocalContent } from '../../../src/content/local.ts';
import { Holds } from '../../../src/image/holds.ts';
import { choosePlatform, MANIFEST_TYPES, parseConfig, parseManifest } from '../../../src/image/manifest.ts';
import type { Index } from '../../../src/image/manifest.ts';
import { parseReference, tagName } from '../../../src/image/reference.ts';
import { ImageStore } from '../../../src/image/store.ts';
import type { ImageRecord } from '../../../src/image/store.ts';

const digest = digestOf('x');

describe('image/reference', () => {
  it('normalises names', () => {
    const cases: Array<[string, string]> = [
      ['busybox', 'docker.io/library/busybox:latest'],
      ['me/app:1', 'docker.io/me/app:1'],
      ['localhost/app', 'localhost/app:latest'],
      ['reg.example:5000/a/b:v1', 'reg.example:5000/a/b:v1'],
      ['127.0.0.1:5000/app', '127.0.0.1:5000/app:latest'],
    ];
    for (const [text, name] of cases) expect(tagName(parseReference(text)), text).to.equal(name);
    expect(parseReference(`reg.example/app:1@${digest}`)).to.include({ tag: '1', digest });
  });

  it('refuses what the grammar refuses, naming the field', () => {
    for (const text of [
      '',
      'UPPER',
      'a//b',
      'a:b:c',
      'a@sha256:12',
      `a@${digest}@${digest}`,
      'reg.example/',
      '../x',
      'a:',
      `a:${'t'.repeat(129)}`,
      'a b',
    ])
      expect(() => parseReference(text), text).to.throw(/^image\.image: /);
  });
});

describe('image/manifest (S14)', () => {
  const layer = { mediaType: 'application/vnd.oci.image.layer.v1.tar', digest, size: 3 };

  it('refuses a document of two meanings and values that are not of their type', () => {
    const type = MANIFEST_TYPES.ociManifest;
    expect(parseManifest({ config: layer, layers: [layer] }, type)).to.have.property('kind', 'manifest');
    expect(() => parseManifest({ config: layer, layers: [], manifests: [] }, type)).to.throw('a manifest and an index at once');
    expect(() => parseManifest({ mediaType: MANIFEST_TYPES.ociIndex, config: layer, layers: [] }, type)).to.throw('was served as');
    for (const bad of [{ digest: 'sha256:1' }, { size: -1 }, { size: 1.5 }, { mediaType: 1 }])
      expect(() => parseManifest({ config: { ...layer, ...bad }, layers: [] }, type)).to.throw();
    expect(() => parseManifest([], type)).to.throw('not an object');
  });

  it('chooses by platform and variant', () => {
    const entry = (architecture: string, variant: string, name: string): Index['manifests'][number] => ({
      mediaType: 'm',
      digest: digestOf(name),
      sizeBytes: 1,
      platform: { os: 'linux', architecture, variant },
    });
    const index: Index = {
      kind: 'index',
      manifests: [entry('arm', 'v5', 'v5'), entry('arm', 'v6', 'v6'), entry('amd64', '', 'amd64'), entry('arm64', 'v8', 'arm64')],
    };
    const choose = (architecture: string, variant: string): string => choosePlatform(index, { os: 'linux', architecture, variant }).digest;
    expect(choose('amd64', '')).to.equal(digestOf('amd64'));
    expect(choose('arm', 'v7')).to.equal(digestOf('v6'));
    expect(choose('arm', 'v6')).to.equal(digestOf('v6'));
    expect(choose('arm64', 'v8')).to.equal(digestOf('arm64'));
    expect(() => choose('s390x', '')).to.throw('nothing for linux/s390x; it has linux/arm/v5');
  });

  it('takes what runs here: arm v7 where it is, never what needs more, amd64 as low as there is', () => {
    const of = (architecture: string, wanted: string, ...variants: string[]): string => {
      const manifests = variants.map((variant) => ({
        ...{ mediaType: 'm', digest: digestOf(variant), sizeBytes: 1 },
        platform: { os: 'linux', architecture, variant },
      }));
      const { digest: chosen } = choosePlatform({ kind: 'index', manifests }, { os: 'linux', architecture, variant: wanted });
      return variants.find((variant) => digestOf(variant) === chosen) ?? 'none of them';
    };
    expect(of('arm', 'v7', 'v5', 'v7', 'v6')).to.equal('v7');
    expect(of('arm', 'v7', 'v8', 'v5', 'v6')).to.equal('v6');
    expect(of('arm', 'v7', 'v5', '')).to.equal('');
    expect(() => of('arm', 'v6', 'v7')).to.throw('it has linux/arm/v7');
    expect(of('arm64', 'v8', '')).to.equal('');
    expect(() => of('arm64', 'v8', 'v9')).to.throw('it has linux/arm64/v9');
    expect(of('amd64', '', 'v3', 'v2')).to.equal('v2');
    expect(of('amd64', '', 'v3', '')).to.equal('');
  });

  it('says of schema 1 what it is', () => {
    expect(() => parseManifest({ schemaVersion: 1, fsLayers: [] }, 'application/vnd.docker.distribution.manifest.v1+prettyjws'))
      .to.throw('Docker schema 1')
      .with.property('kind', 'unimplemented');
  });

  it('takes a config for types only', () => {
    const { config } = parseConfig({
      config: { User: 1, Env: ['A=1', 2], Cmd: 'x', Volumes: { '/v': {} }, Labels: { a: 1 } },
      rootfs: { diff_ids: [digest] },
    });
    expect(config).to.deep.include({ user: '', env: ['A=1'], cmd: [], volumes: ['/v'], labels: { a: '1' } });
    expect(() => parseConfig({ rootfs: { diff_ids: ['md5:1'] } })).to.throw('diff_id');
  });
});

describe('image/holds', () => {
  it('a removal leaves what is held, and a hold waits for a removal that has begun; pulls that overlap for ever stop neither', async () => {
    const holds = new Holds();
    const other = digestOf('y');
    const removed: string[] = [];
    const slow = Promise.withResolvers<void>();
    const remove = (which: typeof digest, isGarbage = true, until: Promise<unknown> = Promise.resolve()): Promise<void> =>
      holds.remove(which, { isGarbage: () => isGarbage, remove: () => until.then(() => void removed.push(which)) });

    let pull = await holds.hold([digest]);
    for (let n = 0; n < 10; n++) {
      const next = await holds.hold([digest]);
      pull[Symbol.dispose]();
      pull = next;
      await remove(digest);
    }
    expect(removed).to.deep.equal([]);
    await remove(other, false);
    expect(removed).to.deep.equal([]);
    const removing = remove(other, true, slow.promise);
    let isHeld = false;
    const held = holds.hold([other]).then(() => (isHeld = true));
    await sleep(5);
    expect(isHeld).to.equal(false);
    slow.resolve();
    await Promise.all([removing, held]);
    expect(removed).to.deep.equal([other]);
    pull[Symbol.dispose]();
    await remove(digest);
    expect(removed).to.deep.equal([other, digest]);
  });
});

describe('image/store and content', () => {
  let dir: string;
  beforeEach(() => (dir = mkdtempSync(join(tmpdir(), 'gantry-images-'))));
  afterEach(() => rmSync(dir, { recursive: true }));
  const record = (name: string, tag: string): ImageRecord => ({
    version: 1,
    id: digestOf(name),
    repoTags: [tag],
    repoDigests: [`r.example/a@${digestOf(`m${name}`)}`],
    sizeBytes: 1,
    topLayer: null,
    chainIds: [],
    blobs: [],
    config: { user: '', env: [], entrypoint: [], cmd: [], workingDir: '', stopSignal: '', volumes: [], labels: {} },
  });

  it('moves a tag, finds by every name, survives a broken record', async () => {
    const store = new ImageStore(dir, ['r.example/a*']);
    await store.load(silentLogger);
    await store.put(record('one', 'r.example/a:1'));
    await store.put(record('two', 'r.example/a:1'));
    expect(store.find('r.example/a:1')?.id).to.equal(digestOf('two'));
    expect(store.find(digestOf('one'))?.repoTags).to.deep.equal([]);
    expect(store.find(digestOf('one').slice(7, 20))?.id).to.equal(digestOf('one'));
    expect(store.find(`r.example/a@${digestOf('mone')}`)).to.include({ id: digestOf('one'), pinned: true });
    expect(store.find('r.example/none:1')).to.equal(undefined);
    writeFileSync(join(dir, `${'f'.repeat(64)}.json`), '{');
    const again = new ImageStore(dir, []);
    await again.load(silentLogger);
    expect(again.list()).to.have.length(2);
    expect(readdirSync(dir).filter((name) => name.endsWith('.broken'))).to.have.length(1);
  });

  it('keeps every name when they come at the same time, normalises pins, and clears what a killed writer left', async () => {
    writeFileSync(join(dir, `${'e'.repeat(64)}.json.0123.tmp`), '{');
    const store = new ImageStore(dir, ['short:1', 'pinned']);
    await store.load(silentLogger);
    expect(readdirSync(dir)).to.deep.equal([]);
    const tags = ['docker.io/library/short:1', 'r.example/a:2', 'r.example/a:3'];
    await Promise.all(tags.map((tag) => store.put(record('one', tag))));
    expect(store.find('short:1')).to.deep.include({ repoTags: tags, pinned: true });
    await store.put(record('two', 'docker.io/library/pinned:latest'));
    expect(store.find(digestOf('two'))?.pinned).to.equal(true);
    await store.put(record('two', 'docker.io/library/short:1'));
    expect(store.find(digestOf('one'))?.pinned).to.equal(false);
  });

  it('gives a blob its name only when it is what it should be, and leaves nothing otherwise (R8)', async () => {
    const content = await createLocalContent(dir);
    const op = newOp('t');
    const put = (bytes: string): Promise<void> => content.put(op, { digest, bytes: Buffer.from(bytes) });
    for (const bytes of ['y', '', 'xx']) expect(await put(bytes).catch((e: { kind: string }) => e.kind)).to.equal('dataLoss');
    for (const sizeBytes of [1, 2_000_000]) {
      const ingest = await content.ingest({ digest, sizeBytes });
      expect(await ingest.commit(op).catch((e: { kind: string }) => e.kind)).to.equal('dataLoss');
      await ingest[Symbol.asyncDispose]();
    }
    expect(await content.info(digest)).to.equal(undefined);
    expect(readdirSync(join(dir, 'ingest'))).to.deep.equal([]);
    await put('x');
    await put('x');
    expect((await content.read(digest, 10)).toString()).to.equal('x');
    expect(await content.read(digest, 0).catch((e: { kind: string }) => e.kind)).to.equal('resourceExhausted');
    await content.remove(digest);
    await content.remove(digest);
    expect(await content.info(digest)).to.equal(undefined);
  });
});
