import { expect } from 'chai';
import { execFileSync, spawnSync } from 'node:child_process';
import { createHash, randomBytes } from 'node:crypto';
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, statfsSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { imageOf } from '../../hack/images/image.ts';
import type { Image } from '../../hack/images/image.ts';
import type { StaticRegistry } from '../../hack/images/registry.ts';
import { serveImages } from '../../hack/images/registry.ts';
import { layerOf } from '../../hack/images/tree.ts';
import type { ImageRecord } from '../../src/image/store.ts';
import { Bed, eventually } from '../lib/bed.ts';

const RESOURCE_EXHAUSTED = 8;
const DISK_BYTES = 96 << 20;

/** Gantry's root on a small ext4 of its own. */
for (const snapshotter of ['overlay', 'erofs'] as const)
  describe(`images on a disk that is cut or full (${snapshotter})`, function () {
    this.timeout(60_000);
    let dir: string;
    let disk: string;
    let copy: string;
    let registry: StaticRegistry;
    let bed: Bed;
    const images = new Map<string, Image>();

    before(async () => {
      dir = mkdtempSync(join(tmpdir(), 'gantry-disk-'));
      disk = join(dir, 'disk.img');
      copy = join(dir, 'copy');
      const gantryDir = join(dir, 'g');
      for (const each of [copy, join(gantryDir, 'root')]) mkdirSync(each, { recursive: true });
      writeFileSync(disk, '');
      truncateSync(disk, DISK_BYTES);
      execFileSync('mkfs.ext4', ['-q', '-m', '0', '-N', '2000', disk]);
      // What nobody syncs stays in memory.
      execFileSync('mount', ['-o', 'loop,commit=300', disk, join(gantryDir, 'root')]);
      for (const name of ['one', 'two', 'three']) {
        const many = Array.from({ length: 100 }, (_, at) => ({ path: `/${name}/${at}`, data: randomBytes(1000) }));
        const layers = [await layerOf(many), await layerOf([{ path: `/${name}/large`, data: randomBytes(4_000_000) }])];
        images.set(`${name}:1`, imageOf({ layers }));
      }
      registry = await serveImages(images);
      bed = await Bed.make({ subnet: 38, snapshotter, dir: gantryDir, config: 'image.verify = "full"\n' });
    });
    after(async () => {
      await bed.gantry.stop();
      // Indexes are mounted below it.
      const { stdout } = spawnSync('findmnt', ['-rno', 'TARGET'], { encoding: 'utf8' });
      const below = stdout.split('\n').filter((target) => target.startsWith(dir));
      for (const target of below.reverse()) execFileSync('umount', [target]);
      await bed.end();
      await registry[Symbol.asyncDispose]();
      rmSync(dir, { recursive: true });
    });

    const ref = (name: string): string => `${registry.host}/${name}:1`;
    const pull = (name: string) => bed.cri.image('pullImage', { image: { image: ref(name) } });
    const isThere = async (name: string): Promise<boolean> =>
      (await bed.cri.image('imageStatus', { image: { image: ref(name) } })).image !== null;
    const sha256 = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex');
    const snapshotsIn = (root: string): string => join(root, 'snapshots', snapshotter);

    /** No byte and no inode is free. */
    const fill = (): void => {
      const { root } = bed.gantry;
      const bytes = join(root, 'fill-bytes');
      writeFileSync(bytes, '', { flag: 'a' });
      // Names take space, too: they come first.
      while (statfsSync(root).ffree > 0) writeFileSync(join(root, `fill-${randomBytes(6).toString('hex')}`), '');
      for (const size of ['64k', '1k'])
        spawnSync('dd', ['if=/dev/zero', `of=${bytes}`, `bs=${size}`, 'oflag=append', 'conv=notrunc'], { stdio: 'ignore' });
      const { bavail, ffree } = statfsSync(root);
      expect({ bavail, ffree }).to.deep.equal({ bavail: 0, ffree: 0 });
    };
    const free = (): void => {
      rmSync(join(bed.gantry.root, 'fill-bytes'), { force: true });
      for (const name of readdirSync(bed.gantry.root)) if (name.startsWith('fill-')) rmSync(join(bed.gantry.root, name));
    };

    it('whatever a pull has said is there is there after a power cut, byte for byte (R8)', async () => {
      await pull('one');
      // The disk at this moment: what is only in memory is not on it.
      execFileSync('cp', ['--sparse=always', disk, `${disk}.cut`]);
      execFileSync('mount', ['-o', 'loop', `${disk}.cut`, copy]);
      try {
        const id = images.get('one:1')?.imageId ?? '';
        const record = JSON.parse(readFileSync(join(copy, 'images', `${id.slice(7)}.json`), 'utf8')) as ImageRecord;
        expect(record.blobs.length).to.equal(4);
        for (const digest of record.blobs)
          expect(`sha256:${sha256(readFileSync(join(copy, 'content/blobs/sha256', digest.slice(7))))}`).to.equal(digest);
        const layersDir = join(snapshotsIn(copy), 'layers');
        const layers = readdirSync(layersDir).map((name) => ({
          name,
          ...(JSON.parse(readFileSync(join(layersDir, name, 'layer.json'), 'utf8')) as {
            chainId: string;
            tar?: { file: string; sizeBytes: number; diffId: string };
          }),
        }));
        const own = layers.filter(({ chainId }) => (record.chainIds as readonly string[]).includes(chainId));
        expect(own.length).to.equal(2);
        for (const { name, tar } of own) {
          const live = join(snapshotsIn(bed.gantry.root), 'layers', name);
          const what = snapshotter === 'erofs' ? 'index' : 'fs';
          execFileSync('diff', ['-r', '--no-dereference', join(layersDir, name, what), join(live, what)]);
          if (tar)
            expect(`sha256:${sha256(readFileSync(join(snapshotsIn(copy), 'tars', tar.file)).subarray(0, tar.sizeBytes))}`).to.equal(
              tar.diffId,
            );
        }
      } finally {
        execFileSync('umount', [copy]);
        rmSync(`${disk}.cut`);
      }
    });

    it('a pull onto a full disk fails cleanly, and works when there is space again (R11)', async () => {
      fill();
      const failure = await pull('two').then(
        () => undefined,
        (error: unknown) => error as Error & { code: number },
      );
      expect(failure?.code, failure?.message).to.equal(RESOURCE_EXHAUSTED);
      expect(await isThere('two')).to.equal(false);
      expect(await isThere('one')).to.equal(true);
      // Space for a part of it.
      free();
      const { bavail, bsize } = statfsSync(bed.gantry.root);
      spawnSync('dd', ['if=/dev/zero', `of=${bed.gantry.root}/fill-most`, 'bs=1k', `count=${(bavail * bsize - 6_000_000) >> 10}`], {
        stdio: 'ignore',
      });
      const before = statfsSync(bed.gantry.root);
      const second = await pull('two').then(
        () => undefined,
        (error: unknown) => error as Error & { code: number },
      );
      expect(second?.code, second?.message).to.equal(RESOURCE_EXHAUSTED);
      await eventually('what it brought is gone', () => statfsSync(bed.gantry.root).bavail * bsize > before.bavail * bsize - 200_000);
      expect(readdirSync(join(bed.gantry.root, 'content', 'ingest'))).to.deep.equal([]);
      free();
      await pull('two');
      expect(await isThere('two')).to.equal(true);
    });

    it('at 0 bytes and 0 inodes the daemon starts and images are removed, which frees their space (R11)', async () => {
      await pull('two');
      fill();
      await bed.gantry.stop();
      fill();
      await bed.gantry.start();
      expect(await isThere('one')).to.equal(true);
      fill();
      await bed.cri.image('removeImage', { image: { image: ref('two') } });
      expect(await isThere('two')).to.equal(false);
      const { bsize } = statfsSync(bed.gantry.root);
      await eventually('its space is free', () => statfsSync(bed.gantry.root).bavail * bsize > 6_000_000);
      fill();
      await bed.gantry.kill();
      await bed.gantry.start();
      expect(await isThere('one')).to.equal(true);
      free();
      await pull('three');
      expect(await isThere('three')).to.equal(true);
    });

    it('ImageFsInfo is what blobs, layers and records take, to the byte', async () => {
      await pull('one');
      const { root } = bed.gantry;
      const onDisk = (): { bytes: number; inodes: number } => {
        const snapshots = join('snapshots', snapshotter);
        const places = ['content/blobs', 'images', join(snapshots, 'layers'), join(snapshots, 'tars')].map((each) => join(copy, each));
        const total = (flag: string): number =>
          Number(/^(\d+)\s+total$/m.exec(execFileSync('du', ['-scx', flag, ...places.filter(existsSync)], { encoding: 'utf8' }))?.[1]);
        return { bytes: total('-B1'), inodes: total('--inodes') };
      };
      const told = async (): Promise<{ bytes: number; inodes: number }> => {
        const { imageFilesystems } = await bed.cri.image('imageFsInfo', {});
        return { bytes: Number(imageFilesystems[0]?.usedBytes?.value), inodes: Number(imageFilesystems[0]?.inodesUsed?.value) };
      };
      // Without what is mounted on it.
      execFileSync('mount', ['--bind', root, copy]);
      try {
        expect(await told()).to.deep.equal(onDisk());
        await bed.gantry.stop();
        await bed.gantry.start();
        expect(await told(), 'after a restart').to.deep.equal(onDisk());
        await bed.cri.image('removeImage', { image: { image: ref('one') } });
        const trash = join(snapshotsIn(root), 'trash');
        await eventually('it is collected', async () => readdirSync(trash).length === 0 && (await told()).bytes === onDisk().bytes);
        expect(await told(), 'after a removal').to.deep.equal(onDisk());
      } finally {
        execFileSync('umount', [copy]);
      }
    });
  });
