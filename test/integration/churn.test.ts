import { expect } from 'chai';
import { readdirSync, readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { Bed } from '../lib/bed.ts';
import { size } from '../lib/size.ts';

const PODS = size('CHURN', 60, 20_000);
const LANES = 4;
/** The others have the node's network, and cost less. */
const OWN_NETWORK_EVERY = 10;
const SAMPLES = PODS < 1000 ? 4 : 20;
/** Compared at either end. */
const ENDS = PODS < 1000 ? 1 : 3;
/** A daemon that has run some hundred pods has compiled all that it will; a short run sees no more than gross leaks. */
const FLAT = PODS < 1000 ? 1.3 : 1.1;
/** Longer than the daemon takes to give memory back (os/spare-memory). */
const SETTLE_MS = 4_000;

interface Sample {
  readonly pods: number;
  /** Of the daemon: anonymous memory (heaps, malloc, stacks), which no other process shares. */
  readonly memoryMib: number;
  readonly pssMib: number;
  readonly descriptors: number;
  readonly threads: number;
}

/** A daemon that has run many pods is no larger than one that has run some (P12, R18). */
describe('churn', function () {
  this.timeout(60_000 + PODS * 2_000);
  let bed: Bed;
  before(async () => (bed = await Bed.make({ subnet: 41, config: 'sandbox.warm = 2\nsandbox.warm_burst = 2\n' })));
  after(() => bed.end());

  async function runOne(serial: number): Promise<void> {
    // A name is used again, as those of a StatefulSet's pods are; its log stays.
    const name = `churn-${serial % LANES}`;
    const network = serial % OWN_NETWORK_EVERY === 0 ? ('POD' as const) : ('NODE' as const);
    const config = bed.podConfig(name, {
      metadata: { name, uid: `uid-${serial}`, namespace: 'default', attempt: 0 },
      hostname: network === 'POD' ? name : '',
      linux: { securityContext: { namespaceOptions: { pid: 'CONTAINER', network } } },
    });
    const podSandboxId = await bed.runPod(config);
    const containerId = await bed.runContainer(podSandboxId, config, bed.containerConfig('app', 'exec sleep 1000'));
    if (network === 'POD') await bed.cri.runtime('execSync', { containerId, cmd: ['true'] });
    await bed.cri.runtime('stopContainer', { containerId, timeout: 0 });
    await bed.cri.runtime('removeContainer', { containerId });
    await bed.cri.runtime('stopPodSandbox', { podSandboxId });
    await bed.cri.runtime('removePodSandbox', { podSandboxId });
  }

  async function runTo(target: number, from: number): Promise<void> {
    let next = from;
    await Promise.all(
      Array.from({ length: LANES }, async () => {
        while (next < target) await runOne(next++);
      }),
    );
  }

  function sample(pods: number): Sample {
    const proc = `/proc/${bed.gantry.pid}`;
    const rollup = readFileSync(`${proc}/smaps_rollup`, 'utf8');
    const mib = (key: string): number => Number(new RegExp(`^${key}:\\s+(\\d+)`, 'm').exec(rollup)?.[1]) / 1024;
    const count = (dir: string): number => readdirSync(`${proc}/${dir}`).length;
    return { pods, memoryMib: mib('Anonymous'), pssMib: mib('Pss'), descriptors: count('fd'), threads: count('task') };
  }

  it(`leaves the daemon as it was after ${PODS} pods: memory within ${Math.round((FLAT - 1) * 100)} %, descriptors, threads`, async () => {
    const samples: Sample[] = [];
    for (let n = 0; n <= SAMPLES; n++) {
      const pods = Math.round((PODS * n) / SAMPLES);
      await runTo(pods, samples.at(-1)?.pods ?? 0);
      await sleep(SETTLE_MS);
      const now = sample(pods);
      samples.push(now);
      console.log(
        `      ${pods} pods: ${now.memoryMib.toFixed(1)} MiB anonymous, ${now.pssMib.toFixed(1)} PSS, ${now.descriptors} descriptors, ${now.threads} threads`,
      );
    }
    // The first is of a daemon that has run none: it warms up.
    const [early, late] = [samples.slice(1, 1 + ENDS), samples.slice(-ENDS)];
    const median = (of: readonly Sample[], what: Exclude<keyof Sample, 'pods'>): number =>
      of.map((each) => each[what]).sort((a, b) => a - b)[Math.floor(of.length / 2)] ?? Number.NaN;
    expect(median(late, 'memoryMib'), 'memory in MiB').to.be.below(median(early, 'memoryMib') * FLAT);
    expect(median(late, 'descriptors'), 'descriptors').to.be.at.most(median(early, 'descriptors') + 2);
    expect(median(late, 'threads'), 'threads').to.be.at.most(median(early, 'threads'));
  });
});
