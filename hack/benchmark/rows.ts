import { setTimeout as sleep } from 'node:timers/promises';
import type { Contender } from './contender.ts';
import { cpuSeconds, memoryMib } from './contender.ts';
import type { RawPods } from './floor.ts';
import type { Samples } from './samples.ts';
import type { PodOptions, Up } from './workload.ts';
import { podDown, podsDown, podsUp, podUp, timed } from './workload.ts';

export interface Bench {
  readonly contenders: readonly Contender[];
  /** Gantry without warm sandboxes; it runs for its own row only. */
  plainGantry(): Promise<Contender>;
  readonly floor: RawPods;
  readonly rounds: number;
}

export interface RowPlan {
  readonly name: string;
  readonly unit: string;
  /** Takes long, or says little beside the others: only run when it is named. */
  readonly optional?: true;
  measure(bench: Bench, samples: Samples): Promise<void>;
}

const PODS_A_ROUND = 10;
/** More pods than this are on the host's network: a contender's subnet has 253 addresses. */
const MAX_ON_SUBNET = 200;
/** A daemon is asked for months: what it compiles on the way is not what is compared. */
const WARM_UP_CALLS = 50;
const SETTLE_MS = 2_000;
/** Both give memory back a while after work. */
const IDLE_MS = 10_000;

/** Each round everybody's turn, in another order each time. */
async function inTurns({ contenders, rounds }: Bench, turn: (who: Contender, round: number) => Promise<void>): Promise<void> {
  for (let round = 0; round < rounds; round++) {
    for (const who of round % 2 === 0 ? contenders : contenders.toReversed()) await turn(who, round);
  }
}

/** A peer has one runtime configured: its own default is what is compared with. */
const own = (who: Contender, options: PodOptions): PodOptions => (who.name === 'gantry' ? options : { ...options, handler: '' });

const sequential = (name: string, options: PodOptions & { plain?: boolean }): RowPlan => ({
  name,
  unit: 'ms',
  async measure(whole, samples) {
    await using held = new AsyncDisposableStack();
    const plain = options.plain === true ? await whole.plainGantry() : undefined;
    held.defer(() => plain?.remove());
    const bench =
      plain === undefined ? whole : { ...whole, contenders: [plain, ...whole.contenders.filter(({ name: each }) => each !== plain.name)] };
    await inTurns(bench, async (who) => {
      for (let n = 0; n < PODS_A_ROUND; n++) {
        let up: Up | undefined;
        samples.add(who.name, await timed(async () => (up = await podUp(who, own(who, options)))));
        if (up !== undefined) await podDown(who, up);
      }
      if (options.hostNetwork !== true && options.handler === undefined) samples.add('floor', bench.floor.measure().up);
    });
  },
});

const exec: RowPlan = {
  name: 'exec',
  unit: 'ms',
  async measure(bench, samples) {
    const ups = new Map<Contender, Up>();
    for (const who of bench.contenders) ups.set(who, await podUp(who));
    await inTurns(bench, async (who) => {
      const { containerId } = ups.get(who)!;
      for (let n = 0; n < 2 * PODS_A_ROUND; n++) {
        samples.add(who.name, await timed(() => who.cri.runtime('execSync', { containerId, cmd: ['true'] })));
      }
      samples.add('floor', bench.floor.measure().exec);
    });
    for (const [who, up] of ups) await podDown(who, up);
  },
};

const down: RowPlan = {
  name: 'pod-down',
  unit: 'ms',
  async measure(bench, samples) {
    await inTurns(bench, async (who) => {
      for (let n = 0; n < PODS_A_ROUND; n++) {
        const up = await podUp(who);
        samples.add(who.name, await timed(() => podDown(who, up)));
      }
      samples.add('floor', bench.floor.measure().down);
    });
  },
};

/** From the first start's beginning to the last one's end. A burst comes to a node that has rested a little: what prepares itself for the next one is at it then. */
const burst = (count: number, concurrency: number, options: PodOptions & { suffix?: string } = {}): RowPlan => ({
  name: `burst-${count}x${concurrency}${options.suffix ?? ''}`,
  unit: 'pods/s',
  async measure(bench, samples) {
    await inTurns(bench, async (who) => {
      let ups: Up[] = [];
      await sleep(SETTLE_MS);
      const ms = await timed(async () => (ups = await podsUp(who, count, concurrency, own(who, options))));
      samples.add(who.name, (count * 1000) / ms);
      await podsDown(who, ups);
    });
  },
});

/** `measure` with `count` pods up at every contender. */
const withPods = (
  name: string,
  unit: string,
  count: number,
  measure: (who: Contender, samples: Samples, ups: readonly Up[]) => Promise<void>,
  settleMs = SETTLE_MS,
): RowPlan => ({
  name,
  unit,
  async measure(bench, samples) {
    const ups = new Map<Contender, Up[]>();
    for (const who of bench.contenders) ups.set(who, await podsUp(who, count, 4, { hostNetwork: count > MAX_ON_SUBNET }));
    await sleep(settleMs);
    await inTurns(bench, (who) => measure(who, samples, ups.get(who)!));
    for (const [who, those] of ups) await podsDown(who, those);
  },
});

const memory = (count: number): RowPlan =>
  withPods(`memory-${count}`, 'MiB', count, async (who, samples) => samples.add(who.name, memoryMib(who)), IDLE_MS);

const idleCpu = withPods('idle-cpu-50', '% of a core', 50, async (who, samples) => {
  const before = cpuSeconds(who);
  await sleep(10_000);
  samples.add(who.name, (cpuSeconds(who) - before) * 10);
});

/** `times` calls each round, of one pod after another. */
const calls = (name: string, count: number, times: number, call: (who: Contender, up: Up) => Promise<unknown>): RowPlan =>
  withPods(`${name}-${count}`, 'ms', count, async (who, samples, ups) => {
    for (let n = -WARM_UP_CALLS; n < times; n++) {
      const ms = await timed(() => call(who, ups[Math.abs(n) % count]!));
      if (n >= 0) samples.add(who.name, ms);
    }
  });

const list = (count: number): RowPlan =>
  calls('list', count, 200, (who) => Promise.all([who.cri.runtime('listPodSandbox', {}), who.cri.runtime('listContainers', {})]));

const status = (count: number): RowPlan =>
  calls('status', count, 200, (who, { containerId }) => who.cri.runtime('containerStatus', { containerId }));

const stats = (count: number): RowPlan => calls('stats', count, 50, (who) => who.cri.runtime('listContainerStats', {}));

export const ROWS: readonly RowPlan[] = [
  sequential('pod-up', {}),
  sequential('pod-up-plain', { plain: true }),
  sequential('pod-up-hostnet', { hostNetwork: true }),
  sequential('pod-up-crun', { handler: 'crun' }),
  exec,
  down,
  burst(50, 10),
  burst(50, 10, { handler: 'crun', suffix: '-crun' }),
  memory(50),
  idleCpu,
  stats(50),
  list(110),
  status(110),
  memory(110),
  withPods('restart-110', 'ms', 110, async (who, samples) => samples.add(who.name, await timed(() => who.restart()))),
  ...[
    ...[1, 10, 50, 100, 200].map((count) => burst(count, count)),
    ...[110, 500].map(stats),
    ...[0, 50, 500].map(list),
    ...[50, 500].map(status),
  ].map((plan) => ({ ...plan, optional: true as const })),
];
