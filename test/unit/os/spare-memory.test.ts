import { setTimeout as sleep } from 'node:timers/promises';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { expect } from 'chai';
import { returnSpareMemory } from '../../../src/os/spare-memory.ts';

const MIB = 1 << 20;

describe('returnSpareMemory', function () {
  this.timeout(30_000);

  before(() => {
    // As `--expose-gc` does.
    setFlagsFromString('--expose-gc');
    globalThis.gc ??= runInNewContext('gc') as NodeJS.GCFunction;
  });

  it('gives back what a burst of work left behind once the process idles', async () => {
    const burst = (): number => Array.from({ length: 500_000 }, (_, n) => ({ text: `${n}`, list: [n] })).length;
    expect(burst()).to.equal(500_000);
    const grownBytes = process.memoryUsage.rss();
    using _ = returnSpareMemory();
    const giveUpAtMs = Date.now() + 20_000;
    while (process.memoryUsage.rss() > grownBytes - 20 * MIB && Date.now() < giveUpAtMs) await sleep(100);
    expect(grownBytes - process.memoryUsage.rss()).to.be.above(20 * MIB);
  });
});
