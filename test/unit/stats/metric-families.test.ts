import { expect } from 'chai';
import { metricDescriptors, podMetricsView } from '../../../src/cri/view/metrics.ts';
import { NO_PRESSURES } from '../../../src/os/pressure.ts';
import type { ContainerReading } from '../../../src/stats/metric-families.ts';
import { BASE_LABELS, CONTAINER_FAMILIES, NETWORK_FAMILIES, POD_FAMILIES } from '../../../src/stats/metric-families.ts';

const reading: ContainerReading = {
  sample: {
    cpuUsageNs: 12_900_000_000n,
    usageNanoCores: undefined,
    timestampNs: 1_700_000_000_500_000_000n,
    memory: {
      usageBytes: 100,
      workingSetBytes: 80,
      rssBytes: 60,
      pageFaults: 5,
      majorPageFaults: 1,
      limitBytes: undefined,
      availableBytes: undefined,
    },
    swap: undefined,
    pids: { current: 3, limit: undefined },
    oomKillCount: 0,
    pressure: { ...NO_PRESSURES, memory: { some: pressure(2_500_000n), full: pressure(999_999n) } },
  },
  detail: {
    cpu: { userNs: 9_000_000_000n, systemNs: 3_900_000_000n, periods: 10n, throttledPeriods: 4n, throttledNs: 1_000_000_000n },
    memory: {
      cacheBytes: 40,
      mappedFileBytes: 30,
      activeFileBytes: 20,
      inactiveFileBytes: 20,
      kernelBytes: 7,
      maxUsageBytes: undefined,
      limitHits: 2n,
      reservationBytes: 0,
      ownPageFaults: 4,
      ownMajorPageFaults: 1,
    },
    io: [
      { major: 254, minor: 0, readBytes: 1n, writeBytes: 2n, reads: 3n, writes: 4n },
      { major: 254, minor: 16, readBytes: 5n, writeBytes: 6n, reads: 7n, writes: 8n },
    ],
    hugepages: [{ pageSize: '2MB', usageBytes: 1, maxUsageBytes: undefined }],
  },
  processes: { processes: 2, descriptors: 8, sockets: 1 },
  softNofile: 1024,
  startedAtNs: 1_699_999_999_900_000_000n,
  resources: null,
  ioDevices: ['/dev/vda', '/dev/vdb'],
  filesystem: { device: '/dev/vda', sizeBytes: 1000n, inodes: 50n, freeInodes: 40n, usedBytes: 9 },
};

function pressure(totalUs: bigint): { avg10: number; avg60: number; avg300: number; totalUs: bigint } {
  return { avg10: 0, avg60: 0, avg300: 0, totalUs };
}

const read = (name: string, of = reading) => {
  const family = CONTAINER_FAMILIES.find((each) => each.name === name);
  if (family === undefined) throw new Error(`no family ${name}`);
  return family.read(of).map(({ labels, value }) => [...labels, Number(value)]);
};

describe('stats/metric-families', () => {
  it('has one descriptor per name, in words, with the label keys that kubelet and critest count', () => {
    const descriptors = metricDescriptors();
    const names = descriptors.map(({ name }) => name);
    expect(new Set(names).size).to.equal(names.length);
    for (const { name, help, labelKeys } of descriptors) {
      expect(help, name).to.match(/\S/);
      expect(labelKeys?.slice(0, BASE_LABELS.length), name).to.deep.equal([...BASE_LABELS]);
      expect(new Set(labelKeys).size, name).to.equal(labelKeys?.length);
    }
    expect(names).to.include.members(POD_FAMILIES.map(({ name }) => name));
  });

  it('gives every series as many values as its family has labels, and no series twice', () => {
    const link = { name: 'eth0', rxBytes: 1, rxPackets: 1, rxErrors: 0, rxDropped: 0, txBytes: 1, txPackets: 1, txErrors: 0, txDropped: 0 };
    const all = [
      ...CONTAINER_FAMILIES.map((family) => ({ family, series: family.read(reading) })),
      ...NETWORK_FAMILIES.map((family) => ({ family, series: family.read([link, { ...link, name: 'eth1' }]) })),
    ];
    for (const { family, series } of all) {
      for (const { labels } of series) expect(labels.length, family.name).to.equal(family.labels.length);
      expect(new Set(series.map(({ labels }) => labels.join())).size, family.name).to.equal(series.length);
    }
  });

  it('tells seconds and defaults as cAdvisor does', () => {
    expect(read('container_cpu_usage_seconds_total')).to.deep.equal([['total', 12]]);
    expect(read('container_start_time_seconds')).to.deep.equal([[1_699_999_999]]);
    expect(read('container_last_seen')).to.deep.equal([[1_700_000_000]]);
    expect(read('container_spec_cpu_shares')).to.deep.equal([[1024]]);
    expect(read('container_spec_cpu_period')).to.deep.equal([[100_000]]);
    expect(read('container_spec_cpu_quota')).to.deep.equal([]);
    expect(read('container_threads_max')).to.deep.equal([[0]]);
    expect(read('container_memory_swap')).to.deep.equal([[0]]);
    // A kernel that keeps no highest use: never lower than what is in use.
    expect(read('container_memory_max_usage_bytes')).to.deep.equal([[100]]);
    expect(read('container_blkio_device_usage_total')).to.deep.equal([
      ['/dev/vda', '254', '0', 'Read', 1],
      ['/dev/vda', '254', '0', 'Write', 2],
      ['/dev/vdb', '254', '16', 'Read', 5],
      ['/dev/vdb', '254', '16', 'Write', 6],
    ]);
  });

  it('leaves out pressure that the kernel does not keep', () => {
    expect(read('container_pressure_memory_waiting_seconds_total')).to.deep.equal([[2]]);
    expect(read('container_pressure_memory_stalled_seconds_total')).to.deep.equal([[0]]);
    expect(read('container_pressure_cpu_waiting_seconds_total')).to.deep.equal([]);
  });

  it('goes over the wire as decimal text', () => {
    const [family] = CONTAINER_FAMILIES;
    if (family === undefined) throw new Error('no families');
    const value = { family, labels: ['a'], value: 18_446_744_073_709_551_615n, timestampNs: 5n };
    expect(podMetricsView({ sandboxId: 's', metrics: [value], containers: [{ containerId: 'c', metrics: [] }] })).to.deep.equal({
      podSandboxId: 's',
      metrics: [{ name: family.name, timestamp: '5', metricType: 'COUNTER', labelValues: ['a'], value: { value: '18446744073709551615' } }],
      containerMetrics: [{ containerId: 'c', metrics: [] }],
    });
  });
});
