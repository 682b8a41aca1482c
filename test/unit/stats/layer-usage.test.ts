import { setTimeout as sleep } from 'node:timers/promises';
import { expect } from 'chai';
import type { DiskUsage } from '../../../src/os/disk-usage.ts';
import { LayerUsages } from '../../../src/stats/layer-usage.ts';

const usage = (sizeBytes: number): DiskUsage => ({ sizeBytes, inodes: 1 });
const nsAgo = (ms: number): string => String(BigInt(Date.now() - ms) * 1_000_000n);

describe('stats/layer-usage', () => {
  it('measures a container that may write whenever it is asked, one that has exited once more', async () => {
    let measured = 0;
    const layers = new LayerUsages({ usage: async () => usage(++measured) });
    const config = {};
    for (const expected of [1, 2]) expect(await layers.of({ id: 'a', config, finishedAtNs: undefined })).to.deep.equal(usage(expected));
    // Its last processes may still be writing.
    expect(await layers.of({ id: 'a', config, finishedAtNs: nsAgo(100) })).to.deep.equal(usage(3));
    for (let time = 0; time < 3; time++) expect(await layers.of({ id: 'a', config, finishedAtNs: nsAgo(60_000) })).to.deep.equal(usage(4));
    expect(await layers.of({ id: 'b', config: {}, finishedAtNs: nsAgo(60_000) })).to.deep.equal(usage(5));
  });

  it('does not wait for a layer that takes long: nothing at first, then what was known', async () => {
    let release: ((value: DiskUsage) => void) | undefined;
    const layers = new LayerUsages({ usage: () => new Promise((resolve) => (release = resolve)) }, 20);
    const ask = () => layers.of({ id: 'a', config, finishedAtNs: undefined });
    const config = {};
    expect(await ask()).to.equal(undefined);
    release?.(usage(7));
    await sleep(1);
    expect(await ask()).to.deep.equal(usage(7));
  });

  it('answers with what was known when the layer can not be measured', async () => {
    let broken = false;
    const layers = new LayerUsages({ usage: async () => (broken ? Promise.reject(new Error('gone')) : usage(7)) });
    const config = {};
    await layers.of({ id: 'a', config, finishedAtNs: undefined });
    broken = true;
    expect(await layers.of({ id: 'a', config, finishedAtNs: undefined })).to.deep.equal(usage(7));
    expect(await layers.of({ id: 'b', config: {}, finishedAtNs: undefined })).to.equal(undefined);
  });
});
