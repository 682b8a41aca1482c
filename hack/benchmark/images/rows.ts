import { setTimeout as sleep } from 'node:timers/promises';
import type { Contender } from '../contender.ts';
import { Disturbance } from '../disturbance.ts';
import type { Row } from '../samples.ts';
import { rowOf, Samples } from '../samples.ts';
import { floorMs } from './floor.ts';
import type { StoredImage } from './shelf.ts';
import { diskBytes, loopbackBytes, probed, pull, removeImages, settle, stallMs } from './turn.ts';

export interface PullBench {
  readonly contenders: readonly Contender[];
  readonly peer: string;
  readonly rounds: number;
  /** Where contenders and floor write. */
  readonly run: string;
  /** Of the registry. */
  readonly storage: string;
  /** host:port. */
  readonly registry: string;
  /** Of Gantry. */
  readonly metricsPort: number;
}

export interface PullRow extends Row {
  /** Part of the CPUs, 0 to 1, that others used in the worst turn. */
  readonly others: number;
}

/** Longer than the daemon takes to begin a new measurement of its event loop. */
const BEGIN_MS = 100;

/** Cold: nothing of the image is there. Warm: another image with the same layers is. Every round each contender and the floor, in another order each time. */
export async function pullRows(name: string, image: StoredImage, bench: PullBench): Promise<PullRow[]> {
  const { contenders, run, rounds, peer } = bench;
  const [cold, warm, list, stall] = [new Samples(), new Samples(), new Samples(), new Samples()];
  const imageBytes = image.layers.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0);
  const before = new Map(contenders.map((who) => [who, diskBytes(who.dir)]));
  const turn = async (who: Contender): Promise<void> => {
    const [one, two] = [1, 2].map((tag) => `images.test/${name}:${tag}`) as [string, string];
    const fromNothing = async (work: () => Promise<number>): Promise<number> => {
      settle(bench, image);
      await sleep(BEGIN_MS);
      const sent = loopbackBytes();
      const result = await work();
      const fetched = loopbackBytes() - sent;
      if (fetched < imageBytes) throw new Error(`${who.name} fetched ${fetched} of ${imageBytes} bytes: its pull was not cold`);
      return result;
    };
    // First the pull during which others ask: who asks takes some of the processors, and what a daemon compiles on the way is not what is compared.
    if (who.name === 'gantry') await stallMs(bench.metricsPort);
    list.add(who.name, await fromNothing(() => probed(who, () => pull(who, one))));
    if (who.name === 'gantry') stall.add(who.name, await stallMs(bench.metricsPort));
    await removeImages(who, [one], before.get(who) ?? 0);
    cold.add(who.name, await fromNothing(() => pull(who, one)));
    settle(bench, image);
    warm.add(who.name, await pull(who, two));
    await removeImages(who, [two, one], before.get(who) ?? 0);
  };
  const floor = async (): Promise<void> => {
    const repository = `http://${bench.registry}/v2/${name}`;
    settle(bench, image);
    cold.add('floor', await floorMs(repository, image.layers, run));
    warm.add('floor', await floorMs(repository, [image.top], run));
  };
  let others = 0;
  for (let round = 0; round < rounds; round++) {
    const turns = [...contenders.map((who) => () => turn(who)), floor];
    for (const take of round % 2 === 0 ? turns : turns.toReversed()) {
      const watch = new Disturbance();
      await take();
      others = Math.max(others, watch.others());
    }
  }
  const [fastest, floorMedian] = [cold.quantile('gantry', 0), cold.quantile('floor', 0.5)];
  if (fastest !== undefined && floorMedian !== undefined && fastest < floorMedian)
    console.log(`NO FLOOR: a pull of ${name} took ${fastest.toFixed(0)} ms, below the floor: don't compare with it`);
  const all = { '': cold, '-warm': warm, '-list-p99': list, '-stall': stall };
  return Object.entries(all).map(([suffix, samples]) => ({ ...rowOf(`pull-${name}${suffix}`, 'ms', samples, peer), others }));
}
