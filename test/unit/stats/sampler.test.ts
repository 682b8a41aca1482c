import { expect } from 'chai';
import type { CgroupStats } from '../../../src/os/cgroup.ts';
import { NO_PRESSURES } from '../../../src/os/pressure.ts';
import { createSampler } from '../../../src/stats/sampler.ts';

const MS = 1_000_000n;

function stats(cpuUsageNs: bigint): CgroupStats {
  return {
    cpuUsageNs,
    memory: {
      usageBytes: 1,
      workingSetBytes: 1,
      rssBytes: 1,
      pageFaults: 0,
      majorPageFaults: 0,
      limitBytes: undefined,
      availableBytes: undefined,
    },
    swap: undefined,
    pids: { current: 1, limit: undefined },
    oomKillCount: 0,
    pressure: NO_PRESSURES,
  };
}

describe('stats/sampler', () => {
  let nowNs = 0n;
  let cpuNs = 0n;
  let reads: string[] = [];
  const make = (): ReturnType<typeof createSampler> =>
    createSampler({
      clock: () => nowNs,
      readStats: async (path) => {
        reads.push(path);
        return stats(cpuNs);
      },
    });
  beforeEach(() => {
    nowNs = cpuNs = 0n;
    reads = [];
  });

  it('reads nothing until asked, then at most once a second', async () => {
    const sampler = make();
    sampler.register('a', '/pod/a');
    expect(reads).to.deep.equal([]);
    await Promise.all([sampler.get('a'), sampler.get('a'), sampler.get('a')]);
    nowNs += 999n * MS;
    await sampler.get('a');
    expect(reads).to.deep.equal(['/pod/a']);
    nowNs += 1n * MS;
    await sampler.get('a');
    expect(reads).to.have.length(2);
  });

  it('gives the rate between the last two readings', async () => {
    const sampler = make();
    sampler.register('a', '/pod/a');
    expect((await sampler.get('a'))?.usageNanoCores).to.equal(undefined);
    nowNs += 2000n * MS;
    cpuNs += 500n * MS;
    expect((await sampler.get('a'))?.usageNanoCores).to.equal(250_000_000);
    nowNs += 500n * MS;
    expect((await sampler.get('a'))?.usageNanoCores).to.equal(250_000_000);
    nowNs += 1000n * MS;
    expect((await sampler.get('a'))?.usageNanoCores).to.equal(0);
  });

  it('gives no rate across a cgroup that began anew', async () => {
    const sampler = make();
    cpuNs = 900n * MS;
    await sampler.read('pod', '/pod');
    nowNs += 1000n * MS;
    cpuNs = 10n * MS;
    expect((await sampler.read('pod', '/pod')).usageNanoCores).to.equal(undefined);
    nowNs += 1000n * MS;
    expect((await sampler.read('pod', '/other')).usageNanoCores).to.equal(undefined);
  });

  it('forgets what is unregistered', async () => {
    const sampler = make();
    sampler.register('a', '/pod/a');
    sampler.unregister('a');
    sampler.unregister('a');
    expect(await sampler.get('a')).to.equal(undefined);
    expect(reads).to.deep.equal([]);
  });

  it('fails for those who asked, and reads again for the next', async () => {
    let broken = true;
    const sampler = createSampler({ readStats: async () => (broken ? Promise.reject(new Error('EIO')) : stats(1n)) });
    sampler.register('a', '/pod/a');
    expect(await sampler.get('a').catch((error: Error) => error.message)).to.equal('EIO');
    broken = false;
    expect((await sampler.get('a'))?.cpuUsageNs).to.equal(1n);
  });
});
