import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect } from 'chai';
import { ClassifiedError } from '../../../src/base/errors.ts';
import { silentLogger } from '../../../src/base/log.ts';
import type { DiskUsage } from '../../../src/os/disk-usage.ts';
import type { ProjectCounter } from '../../../src/os/project-counter.ts';
import { startReactor, stopReactor } from '../../../src/os/reactor.ts';
import { WritableUsage } from '../../../src/snapshot/writable-usage.ts';

/** A filesystem that counts, as far as its user can tell. */
class FakeCounter implements ProjectCounter {
  readonly counts = new Map<number, DiskUsage>();
  readonly dirs = new Map<string, number>();
  asked = 0;
  asking = 0;
  mostAsking = 0;
  broken: { assign?: Error; usage?: Error } = {};

  async idOf(dir: string): Promise<number | undefined> {
    return this.dirs.get(dir);
  }

  async assign(dir: string, id: number): Promise<void> {
    await Promise.resolve();
    if (this.broken.assign) throw this.broken.assign;
    this.dirs.set(dir, id);
    this.counts.set(id, { sizeBytes: 4096, inodes: 1 });
  }

  async usage(id: number): Promise<DiskUsage> {
    this.asked++;
    this.mostAsking = Math.max(this.mostAsking, ++this.asking);
    await settled();
    this.asking--;
    if (this.broken.usage) throw this.broken.usage;
    return this.counts.get(id) ?? { sizeBytes: 0, inodes: 0 };
  }

  id(dir: string): number {
    return this.dirs.get(dir) ?? Number.NaN;
  }
}

const settled = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

describe('what containers write', () => {
  let root: string;
  let counter: FakeCounter;
  before(() => startReactor());
  after(() => stopReactor());
  beforeEach(() => {
    root = mkdtempSync(join(tmpdir(), 'gantry-writable-'));
    counter = new FakeCounter();
  });
  afterEach(() => rmSync(root, { recursive: true }));

  const open = (): Promise<WritableUsage> => WritableUsage.open(root, silentLogger, async () => counter);
  /** As a snapshot that holds 50,000 bytes. */
  const dirOf = (key: string): string => {
    const dir = join(root, key);
    mkdirSync(join(dir, 'upper'), { recursive: true });
    writeFileSync(join(dir, 'upper', 'file'), Buffer.alloc(50_000));
    return dir;
  };

  it('is what the filesystem counts for a project of each', async () => {
    const usage = await open();
    expect(usage.method).to.deep.equal({ by: 'project quota' });
    await usage.begin('a', '/a');
    await usage.begin('b', '/b');
    counter.counts.set(counter.id('/a'), { sizeBytes: 7, inodes: 3 });
    expect(await usage.of('a', '/a')).to.deep.equal({ sizeBytes: 7, inodes: 3 });
    expect(await usage.of('b', '/b')).to.deep.equal({ sizeBytes: 4096, inodes: 1 });
  });

  it('ids are apart, above those that others give away, and a signed int holds them', async () => {
    const usage = await open();
    await Promise.all(Array.from({ length: 200 }, (_, n) => usage.begin(`k${n}`, `/k${n}`)));
    const ids = new Set(counter.dirs.values());
    expect(ids.size).to.equal(200);
    for (const id of ids) expect(id).to.be.within(2 ** 30, 2 ** 31 - 1);
  });

  it('ids that the kernel counts anything for are left alone, until it does not', async () => {
    const usage = await open();
    await usage.begin('a', '/a');
    const id = counter.id('/a');
    const deletion = Promise.withResolvers<void>();
    usage.forget('a', deletion.promise);
    counter.asked = 0;
    await usage.begin('b', '/b');
    // Its files are being deleted: there is nothing to ask.
    expect(counter.asked).to.equal(1);
    deletion.resolve();
    await settled();
    // They are, and still counted.
    await usage.begin('c', '/c');
    counter.counts.delete(id);
    await usage.begin('d', '/d');
    expect(new Set([id, counter.id('/b'), counter.id('/c')]).size).to.equal(3);
    expect(counter.id('/d')).to.equal(id);
  });

  it('a thousand snapshots one after another need one id, and a root has the same ones every time', async () => {
    for (const life of [1, 2]) {
      const usage = await open();
      for (let n = 0; n < 500; n++) {
        await usage.begin('k', `/${life}/${n}`);
        counter.counts.clear();
        usage.forget('k', Promise.resolve());
        await settled();
      }
    }
    expect(new Set(counter.dirs.values()).size).to.equal(1);
    const [id] = counter.dirs.values();
    rmSync(root, { recursive: true });
    root = mkdtempSync(join(tmpdir(), 'gantry-writable-'));
    await (await open()).begin('k', '/other');
    expect(counter.id('/other')).not.to.equal(id);
  });

  it('after a restart the directory tells its id, and nobody else gets it', async () => {
    await (await open()).begin('a', '/a');
    counter.counts.set(counter.id('/a'), { sizeBytes: 9, inodes: 0 });
    const usage = await open();
    await usage.adopt('a', '/a');
    expect((await usage.of('a', '/a')).sizeBytes).to.equal(9);
    await usage.begin('b', '/b');
    expect(counter.id('/b')).not.to.equal(counter.id('/a'));
  });

  it('of somebody else is nobody to count: ids below ours, and a second directory of the same', async () => {
    const usage = await open();
    counter.dirs
      .set(dirOf('low'), 1_048_577)
      .set(dirOf('one'), 2 ** 30 + 5)
      .set(dirOf('two'), 2 ** 30 + 5);
    counter.counts.set(2 ** 30 + 5, { sizeBytes: 1, inodes: 1 });
    for (const key of ['low', 'one', 'two']) await usage.adopt(key, join(root, key));
    expect((await usage.of('low', join(root, 'low'))).sizeBytes).to.be.greaterThan(50_000);
    expect((await usage.of('one', join(root, 'one'))).sizeBytes).to.equal(1);
    expect((await usage.of('two', join(root, 'two'))).sizeBytes).to.be.greaterThan(50_000);
  });

  it('is walked where a project can not be given, or is not counted any more', async () => {
    const usage = await open();
    counter.broken = { assign: new Error('EINVAL') };
    await usage.begin('a', dirOf('a'));
    expect((await usage.of('a', join(root, 'a'))).sizeBytes).to.be.greaterThan(50_000);
    counter.broken = {};
    await usage.begin('b', dirOf('b'));
    expect((await usage.of('b', join(root, 'b'))).sizeBytes).to.equal(4096);
    counter.broken = { usage: new Error('ESRCH') };
    expect((await usage.of('b', join(root, 'b'))).sizeBytes).to.be.greaterThan(50_000);
    await usage.begin('c', dirOf('c'));
    expect((await usage.of('c', join(root, 'c'))).sizeBytes).to.be.greaterThan(50_000);
    // An id that could not be given is free.
    counter.broken = {};
    usage.forget('b', Promise.resolve());
    await settled();
    counter.counts.clear();
    await usage.begin('d', '/d');
    expect(counter.id('/d')).to.equal(counter.id(join(root, 'b')));
  });

  it('is walked where the filesystem does not count, which is told', async () => {
    const usage = await WritableUsage.open(root, silentLogger, async () => {
      throw new ClassifiedError('failedPrecondition', 'it has no project quotas');
    });
    expect(usage.method).to.deep.equal({ by: 'walk', why: 'it has no project quotas' });
    await usage.begin('a', dirOf('a'));
    await usage.adopt('a', join(root, 'a'));
    expect((await usage.of('a', join(root, 'a'))).inodes).to.equal(2);
    usage.forget('a', Promise.resolve());
  });

  it('is asked for once at a time, whoever wants to know', async () => {
    const usage = await open();
    for (let n = 0; n < 20; n++) await usage.begin(`k${n}`, `/k${n}`);
    counter.asked = counter.mostAsking = 0;
    const asked = Array.from({ length: 100 }, (_, n) => usage.of(`k${n % 20}`, `/k${n % 20}`));
    await Promise.all(asked);
    expect({ asked: counter.asked, most: counter.mostAsking }).to.deep.equal({ asked: 20, most: 1 });
  });
});
