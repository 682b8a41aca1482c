import { expect } from 'chai';
import type { StatsSource } from '../../../src/cri/view/stats.ts';
import { containerStatsView, podSandboxStatsView } from '../../../src/cri/view/stats.ts';
import { NO_PRESSURES } from '../../../src/os/pressure.ts';
import type { Snapshotter } from '../../../src/snapshot/snapshotter.ts';
import { LayerUsages } from '../../../src/stats/layer-usage.ts';
import type { Sample, Sampler } from '../../../src/stats/sampler.ts';
import { sumOf } from '../../../src/stats/sum.ts';
import { containerConfig, containerRecord, podConfig, podRecord } from '../../lib/records.ts';

const sample: Sample = {
  timestampNs: 5n,
  cpuUsageNs: 100n,
  usageNanoCores: 7,
  memory: {
    usageBytes: 100,
    workingSetBytes: 80,
    rssBytes: 60,
    pageFaults: 5,
    majorPageFaults: 1,
    limitBytes: 1000,
    availableBytes: 920,
  },
  swap: { usageBytes: 10, limitBytes: 50 },
  pids: { current: 3, limit: undefined },
  oomKillCount: 0,
  pressure: {
    ...NO_PRESSURES,
    io: { some: { avg10: 1.5, avg60: 0, avg300: 0, totalUs: 3n }, full: { avg10: 0, avg60: 0, avg300: 0, totalUs: 2n } },
  },
};

const source = (given: Sample | undefined): StatsSource => {
  const sampler: Sampler = {
    register: () => undefined,
    unregister: () => undefined,
    get: async () => given,
    read: async () => given ?? sample,
  };
  const snapshotter = { root: () => '/snapshots', usage: async () => ({ sizeBytes: 4096, inodes: 2 }) } as unknown as Snapshotter;
  return { sampler, snapshotter, layers: new LayerUsages(snapshotter), stateDir: '/state' };
};

describe('cri/view/stats', () => {
  it('tells figures of a running container, pressure in nanoseconds', async () => {
    const stats = await containerStatsView(source(sample), containerRecord({ config: containerConfig({ labels: { app: 'one' } }) }));
    expect(stats.attributes).to.deep.include({ id: 'c'.repeat(64), labels: { app: 'one' } });
    expect(stats.cpu).to.deep.include({ usageCoreNanoSeconds: { value: '100' }, usageNanoCores: { value: '7' }, psi: null });
    expect(stats.memory).to.deep.include({ availableBytes: { value: '920' }, workingSetBytes: { value: '80' } });
    expect(stats.swap).to.deep.include({ swapUsageBytes: { value: '10' }, swapAvailableBytes: { value: '40' } });
    expect(stats.writableLayer).to.deep.include({
      fsId: { mountpoint: '/snapshots' },
      usedBytes: { value: '4096' },
      inodesUsed: { value: '2' },
    });
    expect(stats.io?.psi).to.deep.equal({
      Some: { Total: '3000', Avg10: 1.5, Avg60: 0, Avg300: 0 },
      Full: { Total: '2000', Avg10: 0, Avg60: 0, Avg300: 0 },
    });
  });

  it('leaves out what the kernel does not say, instead of zeroes', async () => {
    const bare: Sample = {
      ...sample,
      usageNanoCores: undefined,
      swap: undefined,
      pressure: NO_PRESSURES,
      memory: { ...sample.memory, limitBytes: undefined, availableBytes: undefined },
    };
    const stats = await containerStatsView(source(bare), containerRecord());
    expect(stats.swap).to.equal(null);
    expect(stats.io).to.equal(null);
    expect(stats.cpu?.usageNanoCores).to.equal(null);
    expect(stats.memory?.availableBytes).to.equal(null);
  });

  it('tells attributes and the writable layer of one that does not run, and nothing else', async () => {
    const exit = { exitCode: 0, finishedAtNs: '1', reason: 'Completed', message: '' };
    for (const record of [containerRecord({ state: 'exited', exit }), containerRecord({ state: 'created' })]) {
      const stats = await containerStatsView(source(sample), record);
      expect(Object.keys(stats)).to.have.members(['attributes', 'writableLayer']);
    }
  });

  it("adds up a pod's containers where it has no cgroup of its own, and has no network figures on the host's network", async () => {
    const pod = podRecord({
      ownsCgroupParent: false,
      cgroupParent: 'gantry.slice',
      config: podConfig({
        linux: {
          cgroupParent: '',
          sysctls: {},
          overhead: null,
          resources: null,
          securityContext: {
            namespaceOptions: { network: 'NODE', pid: 'POD', ipc: 'POD', targetId: '', usernsOptions: null },
          } as never,
        },
      }),
    });
    const stats = await podSandboxStatsView(source(sample), pod, [
      containerRecord(),
      containerRecord(),
      containerRecord({ state: 'exited' }),
    ]);
    expect(stats.linux?.cpu?.usageCoreNanoSeconds).to.deep.equal({ value: '200' });
    expect(stats.linux?.process?.processCount).to.deep.equal({ value: '6' });
    expect(stats.linux?.network).to.equal(null);
    expect(stats.linux?.containers).to.have.length(3);
    expect(sumOf([])).to.equal(undefined);
    expect(sumOf([sample, { ...sample, usageNanoCores: undefined }])?.usageNanoCores).to.equal(undefined);
  });
});
