import { expect } from 'chai';
import { randomBytes } from 'node:crypto';
import {
  closeSync,
  existsSync,
  openSync,
  readdirSync,
  readFileSync,
  readSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { join } from 'node:path';
import type { Image } from '../../hack/images/image.ts';
import { imageOf } from '../../hack/images/image.ts';
import type { StaticRegistry } from '../../hack/images/registry.ts';
import { serveImages } from '../../hack/images/registry.ts';
import type { Layer } from '../../hack/images/tree.ts';
import { layerOf } from '../../hack/images/tree.ts';
import { Bed, DEMO_IMAGE, eventually } from '../lib/bed.ts';

const POD = { linux: { securityContext: { namespaceOptions: { pid: 'CONTAINER' as const } } } };
const FILE_BYTES = 3_000_000;

/** Damage on disk, and what it takes to be rid of it (R8, R10). */
for (const snapshotter of ['overlay', 'erofs'] as const)
  describe(`damage to images (${snapshotter})`, function () {
    this.timeout(60_000);
    let registry: StaticRegistry;
    let bed: Bed;
    const images = new Map<string, Image & { layers: readonly Layer[] }>();
    const layer = (path: string): Promise<Layer> =>
      layerOf(
        [
          { path, data: randomBytes(FILE_BYTES) },
          { path: `${path}.small`, data: path },
        ],
        'none',
      );

    before(async () => {
      const shared = await layer('/shared');
      for (const name of ['a', 'b', 'c']) {
        // a and b stand on the same layer; c is by itself.
        const layers = name === 'c' ? [await layer('/c')] : [shared, await layer(`/${name}`)];
        images.set(`${name}:1`, { ...imageOf({ layers }), layers });
      }
      registry = await serveImages(images);
      bed = await Bed.make({ subnet: 37, snapshotter, config: 'image.verify = "full"\n' });
    });
    after(async () => {
      await bed.end();
      await registry[Symbol.asyncDispose]();
    });
    beforeEach(async () => {
      for (const name of ['a', 'b', 'c']) await pull(name);
      registry.blobsAsked.length = 0;
    });

    const ref = (name: string): string => `${registry.host}/${name}:1`;
    const pull = (name: string) => bed.cri.image('pullImage', { image: { image: ref(name) } });
    const isThere = async (name: string): Promise<boolean> =>
      (await bed.cri.image('imageStatus', { image: { image: ref(name) } })).image !== null;
    const present = async (): Promise<string> => {
      const all = await Promise.all(['a', 'b', 'c'].map(async (name) => ((await isThere(name)) ? name : '')));
      return all.join('');
    };
    const imageNamed = (name: string): Image & { layers: readonly Layer[] } => {
      const image = images.get(`${name}:1`);
      if (image === undefined) throw new Error(`no image ${name}`);
      return image;
    };
    const blobPath = (digest: string): string => join(bed.gantry.root, 'content/blobs/sha256', digest.slice('sha256:'.length));
    const blobOf = (name: string): string => imageNamed(name).layers.at(-1)?.digest ?? '';
    /** Stops, does it, starts; waits until everything was looked at. */
    const whileDown = async (damage: () => void): Promise<void> => {
      await bed.gantry.stop();
      damage();
      const verified = (): number => readFileSync(bed.gantry.logPath, 'utf8').split('images are verified').length;
      const before = verified();
      await bed.gantry.start();
      await eventually('images are verified', () => verified() > before);
    };
    const flip = (path: string, at = Math.floor(statSync(path).size / 2)): void => {
      const [fd, byte] = [openSync(path, 'r+'), Buffer.alloc(1)];
      readSync(fd, byte, 0, 1, at);
      writeSync(fd, Buffer.from([(byte[0] ?? 0) ^ 1]), 0, 1, at);
      closeSync(fd);
    };
    /** Where the content of the layer that has /<name> lies: its tar, or its directory. */
    const placeOf = (name: string): string => {
      const { snapshots } = bed.gantry;
      if (snapshotter === 'erofs') return join(snapshots, 'tars', tarOf(name));
      const found = readdirSync(join(snapshots, 'layers')).find((each) => existsSync(join(snapshots, 'layers', each, 'fs', name)));
      return join(snapshots, 'layers', found ?? '', 'fs');
    };
    const tarOf = (name: string): string => {
      // These layers are not compressed: what is pushed is the tar.
      const hex = blobOf(name).slice('sha256:'.length);
      return readdirSync(join(bed.gantry.snapshots, 'tars')).find((each) => each.startsWith(hex)) ?? '';
    };
    const indexOf = (name: string): string => {
      const { snapshots } = bed.gantry;
      const layers = readdirSync(join(snapshots, 'layers'));
      const found = layers.find((each) => readFileSync(join(snapshots, 'layers', each, 'layer.json'), 'utf8').includes(tarOf(name)));
      return join(snapshots, 'layers', found ?? '', 'index');
    };
    const damageLayer = (name: string): void =>
      snapshotter === 'erofs' ? flip(placeOf(name)) : rmSync(join(placeOf(name), `${name}.small`));
    const expectWhole = (name: string): void => {
      const blob = imageNamed(name).layers.at(-1)?.blob ?? Buffer.alloc(0);
      expect(readFileSync(blobPath(blobOf(name))).equals(blob), 'the blob').to.equal(true);
      if (snapshotter === 'erofs') expect(readFileSync(placeOf(name)).subarray(0, blob.length).equals(blob), 'the tar').to.equal(true);
      else expect(readFileSync(join(placeOf(name), `${name}.small`), 'utf8')).to.equal(`/${name}`);
    };

    it('of a damaged layer only its images go; a pull brings it back from the blob that is here', async () => {
      await whileDown(() => damageLayer('a'));
      expect(await present()).to.equal('bc');
      const { images: listed } = await bed.cri.image('listImages', {});
      expect(listed.flatMap(({ repoTags }) => repoTags)).to.not.contain(ref('a'));
      await pull('a');
      expect(registry.blobsAsked).to.deep.equal([]);
      expect(await present()).to.equal('abc');
      expectWhole('a');
    });

    it('of a layer that two images stand on both go, and both come back', async () => {
      await whileDown(() => {
        const [shared] = imageNamed('a').layers;
        const hex = shared?.digest.slice('sha256:'.length) ?? '';
        if (snapshotter === 'overlay') return rmSync(join(placeOf('shared'), 'shared.small'));
        const { snapshots } = bed.gantry;
        flip(join(snapshots, 'tars', readdirSync(join(snapshots, 'tars')).find((each) => each.startsWith(hex)) ?? ''));
      });
      expect(await present()).to.equal('c');
      await pull('b');
      // Its own layer was never in doubt.
      expect(await present()).to.equal('abc'.replace('a', ''));
      await pull('a');
      expect(await present()).to.equal('abc');
      expect(registry.blobsAsked).to.deep.equal([]);
    });

    it('a damaged blob whose layer is whole hurts nobody, and the next pull fetches it alone', async () => {
      await whileDown(() => flip(blobPath(blobOf('a'))));
      expect(await present()).to.equal('abc');
      expect(existsSync(blobPath(blobOf('a')))).to.equal(false);
      await pull('a');
      expect(registry.blobsAsked).to.deep.equal([blobOf('a')]);
      expectWhole('a');
    });

    it('layer and blob both damaged: the blob is fetched, and nothing else', async () => {
      await whileDown(() => {
        flip(blobPath(blobOf('a')));
        damageLayer('a');
      });
      expect(await present()).to.equal('bc');
      await pull('a');
      expect(registry.blobsAsked).to.deep.equal([blobOf('a')]);
      expectWhole('a');
    });

    it('a damaged config', async () => {
      await whileDown(() => flip(blobPath(imageNamed('c').imageId)));
      expect(await present()).to.equal('ab');
      await pull('c');
      expect(registry.blobsAsked).to.deep.equal([imageNamed('c').imageId]);
      expect(await present()).to.equal('abc');
    });

    it('without a restart, a pull repairs blobs that are empty or cut off, and what it can not unpack', async () => {
      truncateSync(blobPath(blobOf('a')), 0);
      truncateSync(blobPath(blobOf('b')), 1_500_000);
      writeFileSync(blobPath(imageNamed('c').imageId), '{}');
      for (const name of ['a', 'b', 'c']) await pull(name);
      expect(registry.blobsAsked).to.deep.equal([blobOf('a'), blobOf('b'), imageNamed('c').imageId]);
      for (const name of ['a', 'b']) expectWhole(name);
      registry.blobsAsked.length = 0;
      // Of the right size, and found out when its layer is to be made of it.
      await whileDown(() => damageLayer('c'));
      flip(blobPath(blobOf('c')));
      await pull('c');
      expect(registry.blobsAsked).to.deep.equal([blobOf('c')]);
      expectWhole('c');
    });

    it('a container that stands on it keeps its files, and the damaged layer goes with it', async () => {
      const config = bed.podConfig('stands', POD);
      const pod = await bed.runPod(config);
      const id = await bed.runContainer(pod, config, bed.containerConfig('c', 'sleep 1000'));
      const layersDir = join(bed.gantry.snapshots, 'layers');
      const before = readdirSync(layersDir);
      const isDemo = (name: string): boolean => !['shared', 'a', 'b', 'c'].some((path) => existsSync(join(layersDir, name, 'fs', path)));
      await whileDown(() => {
        // The demo image's layer: the one that is mounted, or has none of our files.
        for (const name of before) {
          if (snapshotter === 'erofs') {
            if (existsSync(join(layersDir, name, 'fs', 'bin')))
              flip(join(layersDir, name, 'index'), statSync(join(layersDir, name, 'index')).size - 1);
          } else if (isDemo(name)) writeFileSync(join(layersDir, name, 'fs', 'one-more'), '');
        }
      });
      expect((await bed.cri.image('imageStatus', { image: { image: DEMO_IMAGE } })).image).to.equal(null);
      const { exitCode } = await bed.cri.runtime('execSync', { containerId: id, cmd: ['cat', '/bin/busybox'], timeout: '10' });
      expect(exitCode).to.equal(0);
      await bed.cri.image('pullImage', { image: { image: DEMO_IMAGE } });
      const second = await bed.runContainer(pod, config, bed.containerConfig('d', 'sleep 1000'));
      expect((await bed.status(second)).state).to.equal('CONTAINER_RUNNING');
      expect((await bed.status(id)).state).to.equal('CONTAINER_RUNNING');
      const after = readdirSync(layersDir).length;
      await bed.gantry.removePods();
      await eventually('the damaged layer is gone', () => readdirSync(layersDir).length < after);
    });

    it('at every start: what is empty or lost is not there, and a pull brings it back', async () => {
      await whileDown(() => {
        if (snapshotter === 'erofs') {
          truncateSync(placeOf('a'), 0);
          truncateSync(indexOf('c'), 0);
        } else for (const name of ['a', 'c']) rmSync(join(placeOf(name), '..', 'layer.json'));
      });
      expect(await present()).to.equal('b');
      for (const name of ['a', 'c']) await pull(name);
      expect(await present()).to.equal('abc');
      for (const name of ['a', 'c']) expectWhole(name);
      expect(registry.blobsAsked).to.deep.equal([]);
    });
  });

describe('images whose compressed blobs are discarded (F4)', function () {
  this.timeout(60_000);
  for (const snapshotter of ['overlay', 'erofs'] as const)
    it(`${snapshotter}: a pull of what is there fetches nothing; after a cut of the power what is empty is found and fetched`, async () => {
      const layers = [await layerOf([{ path: '/x', data: randomBytes(FILE_BYTES) }]), await layerOf([{ path: '/y', data: 'y' }])];
      const image = imageOf({ layers });
      await using registry = await serveImages(new Map([['x:1', image]]));
      const bed = await Bed.make({ subnet: 39, snapshotter, config: 'image.compressed_blobs = "discard"\n' });
      try {
        const { root } = bed.gantry;
        const ref = { image: { image: `${registry.host}/x:1` } };
        const isBlobThere = (digest: string): boolean => existsSync(join(root, 'content/blobs/sha256', digest.slice('sha256:'.length)));
        await bed.cri.image('pullImage', ref);
        await eventually('its blobs are gone', () => !layers.some(({ digest }) => isBlobThere(digest)));
        expect(isBlobThere(image.imageId)).to.equal(true);
        registry.blobsAsked.length = 0;
        await bed.cri.image('pullImage', ref);
        expect(registry.blobsAsked).to.deep.equal([]);

        await bed.gantry.kill();
        expect(readFileSync(join(root, 'running'), 'utf8')).to.equal(readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim());
        writeFileSync(join(root, 'running'), 'another boot');
        truncateSync(join(root, 'content/blobs/sha256', image.imageId.slice('sha256:'.length)), 0);
        await bed.gantry.start();
        await eventually('it is out of sight', async () => (await bed.cri.image('imageStatus', ref)).image === null);
        await bed.cri.image('pullImage', ref);
        expect(registry.blobsAsked).to.deep.equal([image.imageId]);
        expect((await bed.cri.image('imageStatus', ref)).image).to.not.equal(null);
        await bed.gantry.stop();
        expect(existsSync(join(root, 'running'))).to.equal(false);
        await bed.gantry.start();
      } finally {
        await bed.end();
      }
    });
});
