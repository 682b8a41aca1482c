import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { expect } from 'chai';
import { deviceName, deviceOf } from '../../../src/os/block-device.ts';
import { readDetailIn } from '../../../src/os/cgroup-detail.ts';
import type { Hierarchies } from '../../../src/os/cgroup-hierarchies.ts';
import { readStatsIn } from '../../../src/os/cgroup-stats.ts';
import { parsePressure } from '../../../src/os/pressure.ts';
import { procUsage, softNofileOf } from '../../../src/os/proc-usage.ts';

let root: string;
const write = (files: Readonly<Record<string, string>>): void => {
  for (const [name, text] of Object.entries(files)) {
    mkdirSync(dirname(join(root, name)), { recursive: true });
    writeFileSync(join(root, name), text);
  }
};

describe('os/cgroup-detail', () => {
  beforeEach(() => {
    root = mkdtempSync(join(tmpdir(), 'gantry-test-cgroup-'));
  });
  afterEach(() => rmSync(root, { recursive: true }));

  it('reads v2', async () => {
    write({
      'pod/cpu.stat':
        'usage_usec 300\nuser_usec 200\nsystem_usec 100\nnr_periods 10\nnr_throttled 4\nthrottled_usec 5000\nnr_bursts 0\nburst_usec 0\n',
      'pod/memory.stat':
        'anon 1\nfile 500\nkernel 77\nkernel_stack 32\nslab 9\nfile_mapped 40\ninactive_file 30\nactive_file 20\npgfault 11\npgmajfault 2\n',
      'pod/memory.peak': '9000\n',
      'pod/memory.events': 'low 0\nhigh 0\nmax 9\noom 3\noom_kill 2\n',
      'pod/memory.low': '4096\n',
      'pod/io.stat':
        '254:0 rbytes=100 wbytes=200 rios=3 wios=4 dbytes=5 dios=6\n8:16 rbytes=18446744073709551615 wbytes=0 rios=1 wios=0\n7:0 \n',
      'pod/hugetlb.2MB.current': '4194304\n',
      'pod/hugetlb.2MB.max': 'max\n',
      'pod/hugetlb.1GB.current': '0\n',
    });
    const tree: Hierarchies = { mode: 'v2', v1: new Map(), unified: root };
    const { hugepages, ...rest } = await readDetailIn(tree, '/pod');
    expect(rest).to.deep.equal({
      cpu: { userNs: 200_000n, systemNs: 100_000n, periods: 10n, throttledPeriods: 4n, throttledNs: 5_000_000n },
      memory: {
        cacheBytes: 500,
        mappedFileBytes: 40,
        activeFileBytes: 20,
        inactiveFileBytes: 30,
        kernelBytes: 77,
        maxUsageBytes: 9000,
        limitHits: 9n,
        reservationBytes: 4096,
        ownPageFaults: 11,
        ownMajorPageFaults: 2,
      },
      io: [
        { major: 254, minor: 0, readBytes: 100n, writeBytes: 200n, reads: 3n, writes: 4n },
        { major: 8, minor: 16, readBytes: 18_446_744_073_709_551_615n, writeBytes: 0n, reads: 1n, writes: 0n },
        { major: 7, minor: 0, readBytes: 0n, writeBytes: 0n, reads: 0n, writes: 0n },
      ],
    });
    expect(hugepages).to.have.deep.members([
      { pageSize: '2MB', usageBytes: 4_194_304, maxUsageBytes: undefined },
      { pageSize: '1GB', usageBytes: 0, maxUsageBytes: undefined },
    ]);
  });

  it('reads v2 of older kernels: no peak, no sum of kernel memory', async () => {
    write({ 'pod/memory.stat': 'kernel_stack 32\nslab 9\nsock 1\n' });
    const { memory } = await readDetailIn({ mode: 'v2', v1: new Map(), unified: root }, '/pod');
    expect(memory).to.include({ kernelBytes: 42, maxUsageBytes: undefined });
  });

  it('reads v1, each controller in its own hierarchy', async () => {
    write({
      'cpuacct/pod/cpuacct.usage_user': '2000000000\n',
      'cpuacct/pod/cpuacct.usage_sys': '1000000000\n',
      'cpu/pod/cpu.stat': 'nr_periods 10\nnr_throttled 4\nthrottled_time 123456789\n',
      'memory/pod/memory.stat':
        'cache 1\npgfault 3\npgmajfault 1\ntotal_cache 500\ntotal_mapped_file 40\ntotal_active_file 20\ntotal_inactive_file 30\n',
      'memory/pod/memory.kmem.usage_in_bytes': '77\n',
      'memory/pod/memory.max_usage_in_bytes': '9000\n',
      'memory/pod/memory.failcnt': '6\n',
      'memory/pod/memory.soft_limit_in_bytes': '9223372036854771712\n',
      'blkio/pod/blkio.throttle.io_service_bytes_recursive':
        '254:0 Read 100\n254:0 Write 200\n254:0 Sync 300\n254:0 Async 0\n254:0 Discard 0\n254:0 Total 300\nTotal 300\n',
      'blkio/pod/blkio.throttle.io_serviced_recursive': '254:0 Read 3\n254:0 Write 4\n254:0 Total 7\nTotal 7\n',
      'hugetlb/pod/hugetlb.2MB.usage_in_bytes': '2097152\n',
      'hugetlb/pod/hugetlb.2MB.max_usage_in_bytes': '4194304\n',
    });
    const names = ['cpu', 'cpuacct', 'memory', 'blkio', 'hugetlb'];
    const tree: Hierarchies = { mode: 'v1', v1: new Map(names.map((name) => [name, join(root, name)])), unified: undefined };
    expect(await readDetailIn(tree, '/pod')).to.deep.equal({
      cpu: { userNs: 2_000_000_000n, systemNs: 1_000_000_000n, periods: 10n, throttledPeriods: 4n, throttledNs: 123_456_789n },
      memory: {
        cacheBytes: 500,
        mappedFileBytes: 40,
        activeFileBytes: 20,
        inactiveFileBytes: 30,
        kernelBytes: 77,
        maxUsageBytes: 9000,
        limitHits: 6n,
        reservationBytes: 0,
        ownPageFaults: 3,
        ownMajorPageFaults: 1,
      },
      io: [{ major: 254, minor: 0, readBytes: 100n, writeBytes: 200n, reads: 3n, writes: 4n }],
      hugepages: [{ pageSize: '2MB', usageBytes: 2_097_152, maxUsageBytes: 4_194_304 }],
    });
  });

  it('counts what is missing as zero', async () => {
    for (const mode of ['v1', 'v2'] as const) {
      const detail = await readDetailIn({ mode, v1: new Map([['memory', root]]), unified: root }, '/none');
      expect(detail.cpu.userNs).to.equal(0n);
      expect(detail.io).to.deep.equal([]);
      expect(detail.hugepages).to.deep.equal([]);
    }
  });

  it('takes the pressure of a hybrid host from the v2 tree', async () => {
    write({
      'unified/pod/cpu.pressure': 'some avg10=0.00 avg60=0.00 avg300=0.00 total=5\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=3\n',
    });
    const tree: Hierarchies = { mode: 'hybrid', v1: new Map([['memory', join(root, 'memory')]]), unified: join(root, 'unified') };
    const { pressure } = await readStatsIn(tree, '/pod');
    expect(pressure.cpu?.some.totalUs).to.equal(5n);
    expect(pressure.cpu?.full.totalUs).to.equal(3n);
    expect(pressure.memory).to.equal(undefined);
    for (const text of ['', 'nonsense', 'full avg10=0.00 avg60=0.00 avg300=0.00 total=3\n'])
      expect(parsePressure(text)).to.equal(undefined);
  });

  it('counts descriptors and sockets of processes, those that are gone not', async () => {
    mkdirSync(join(root, '7/fd'), { recursive: true });
    for (const [name, target] of [
      ['0', '/dev/null'],
      ['1', 'socket:[123]'],
      ['2', 'pipe:[5]'],
      ['3', 'socket:[9]'],
    ] as const) {
      symlinkSync(target, join(root, '7/fd', name));
    }
    write({
      '7/limits':
        'Limit                     Soft Limit           Hard Limit           Units     \nMax open files            1024                 4096                 files     \n',
    });
    write({ '8/limits': 'Max open files            unlimited            unlimited            files     \n' });
    expect(await procUsage([7, 9], root)).to.deep.equal({ processes: 2, descriptors: 4, sockets: 2 });
    expect(await softNofileOf(7, root)).to.equal(1024);
    expect(await softNofileOf(8, root)).to.equal(undefined);
    expect(await softNofileOf(9, root)).to.equal(undefined);
  });

  it('stops counting descriptors where a container has made very many', async () => {
    mkdirSync(join(root, '7/fd'), { recursive: true });
    for (let name = 0; name < 20_100; name++) symlinkSync('socket:[1]', join(root, '7/fd', String(name)));
    const { descriptors } = await procUsage([7, 7], root);
    expect(descriptors).to.equal(20_000);
  });

  it('names devices, and says numbers where there is no name', async () => {
    expect(await deviceName(0, 999_999)).to.equal('0:999999');
    expect(await deviceOf('/proc')).to.match(/^0:\d+$/);
  });
});
