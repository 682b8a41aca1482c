import { expect } from 'chai';
import type { LinuxContainerResources__Output } from '../../../src/gen/cri/runtime/v1/LinuxContainerResources.ts';
import { podLimits, resourcesInForce } from '../../../src/sandbox/resources.ts';
import { podConfig, podRecord } from '../../lib/records.ts';

const limits = (change: Partial<LinuxContainerResources__Output> = {}): LinuxContainerResources__Output => ({
  cpuPeriod: '0',
  cpuQuota: '0',
  cpuShares: '0',
  memoryLimitInBytes: '0',
  oomScoreAdj: '0',
  cpusetCpus: '',
  cpusetMems: '',
  hugepageLimits: [],
  unified: {},
  memorySwapLimitInBytes: '0',
  ...change,
});

describe('sandbox/resources', () => {
  it("add up the containers' limits and the overhead", () => {
    const resources = limits({ cpuShares: '1024', cpuQuota: '50000', cpuPeriod: '100000', memoryLimitInBytes: String(64 << 20) });
    const overhead = limits({ cpuShares: '256', cpuQuota: '10000', cpuPeriod: '50000', memoryLimitInBytes: String(16 << 20) });
    expect(podLimits({ overhead, resources })).to.deep.equal({
      cpuShares: 1280,
      cpuPeriodUs: 100_000,
      cpuQuotaUs: 70_000,
      memoryLimitBytes: 80 << 20,
    });
  });

  it('leave a pod whose containers have no limit without one, whatever its overhead', () => {
    const overhead = limits({ cpuQuota: '10000', memoryLimitInBytes: '1000' });
    for (const resources of [null, limits(), limits({ cpuQuota: '-1' })]) {
      expect(podLimits({ overhead, resources })).to.deep.equal({ cpuPeriodUs: 100_000, cpuQuotaUs: 0, memoryLimitBytes: 0 });
    }
    expect(podLimits({ overhead: null, resources: limits({ cpuShares: '262144' }) }).cpuShares).to.equal(262_144);
    expect(podLimits({ overhead: limits({ cpuShares: '2' }), resources: limits({ cpuShares: '262144' }) }).cpuShares).to.equal(262_144);
  });

  it("are the config's until they are changed", () => {
    const [first, second] = [limits({ cpuShares: '2' }), limits({ cpuShares: '4' })];
    const linux = { cgroupParent: '', securityContext: null, sysctls: {}, overhead: null, resources: first };
    const record = podRecord({ config: podConfig({ linux }) });
    expect(resourcesInForce(record)).to.deep.equal({ overhead: null, resources: first });
    expect(resourcesInForce({ ...record, resources: second })).to.deep.equal({ overhead: null, resources: second });
    expect(resourcesInForce(podRecord())).to.deep.equal({ overhead: null, resources: null });
  });
});
