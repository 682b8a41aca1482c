import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { expect } from 'chai';
import type { Hierarchies } from '../../../src/os/cgroup-hierarchies.ts';
import { directoriesOf, directoryOf, findHierarchies, hierarchies } from '../../../src/os/cgroup-hierarchies.ts';
import { readOomKillsIn, readStatsIn } from '../../../src/os/cgroup-stats.ts';
import {
  cgroupExists,
  cgroupMode,
  cgroupOf,
  createCgroup,
  joinCgroup,
  killCgroup,
  procsIn,
  readStats,
  removeCgroup,
  setResources,
  limitsIn,
  settingsOf,
} from '../../../src/os/cgroup.ts';
import { kindOf } from '../../../src/base/errors.ts';
import { spawn } from '../../../src/os/spawn.ts';
import { leaksFail, TEST_CGROUP } from '../../lib/leaks.ts';

const V1 = `31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:5 - cgroup cgroup rw,cpu,cpuacct
33 31 0:30 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
34 31 0:31 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,release_agent=/lib/agent,name=systemd
`;
const UNIFIED = '41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n';
const V2 = '30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot\n';

describe('os/cgroup: hierarchies', () => {
  it('tells v1, hybrid and v2 apart', () => {
    expect(findHierarchies(V1).mode).to.equal('v1');
    expect(findHierarchies(V1 + UNIFIED).mode).to.equal('hybrid');
    expect(findHierarchies(V2).mode).to.equal('v2');
    // systemd's own tree beside v2 holds no controller.
    expect(findHierarchies(`${V2}34 31 0:31 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd\n`).mode).to.equal('v2');
  });

  it('finds directories by controller, however they are mounted together', () => {
    const v1 = findHierarchies(V1);
    expect([...v1.v1.keys()]).to.deep.equal(['cpu', 'cpuacct', 'memory', 'name=systemd']);
    expect(directoryOf(v1, '/a/b', 'cpuacct')).to.equal('/sys/fs/cgroup/cpu,cpuacct/a/b');
    expect(directoriesOf(v1, '/a')).to.deep.equal(['/sys/fs/cgroup/cpu,cpuacct/a', '/sys/fs/cgroup/memory/a', '/sys/fs/cgroup/systemd/a']);
    expect(directoryOf(findHierarchies(V2), '/a', 'memory')).to.equal('/sys/fs/cgroup/a');
    expect(directoriesOf(findHierarchies(V2), '/a')).to.deep.equal(['/sys/fs/cgroup/a']);
  });

  it('say which limits the kernel has', () => {
    const root = mkdtempSync(join(tmpdir(), 'gantry-test-cgroup-'));
    mkdirSync(join(root, 'some.slice'));
    writeFileSync(join(root, 'cgroup.controllers'), 'cpu memory hugetlb\n');
    const v2 = { mode: 'v2', v1: new Map(), unified: root } as const;
    expect(limitsIn(v2)).to.deep.equal({ hugepages: true, swap: false });
    writeFileSync(join(root, 'some.slice/memory.swap.max'), 'max\n');
    expect(limitsIn(v2)).to.deep.equal({ hugepages: true, swap: true });
    const v1 = { mode: 'v1', v1: new Map([['memory', root]]), unified: undefined } as const;
    expect(limitsIn(v1)).to.deep.equal({ hugepages: false, swap: false });
    writeFileSync(join(root, 'memory.memsw.limit_in_bytes'), '');
    expect(limitsIn(v1)).to.deep.equal({ hugepages: false, swap: true });
    rmSync(root, { recursive: true });
  });

  it('never leaves them', () => {
    for (const path of ['/a/../..', '/..', 'a', '']) expect(() => directoriesOf(findHierarchies(V2), path)).to.throw('absolute and plain');
  });
});

describe('os/cgroup: statistics', () => {
  let root: string;
  beforeEach(() => {
    root = mkdtempSync(join(tmpdir(), 'gantry-test-cgroup-'));
  });
  afterEach(() => rmSync(root, { recursive: true }));
  const write = (files: Readonly<Record<string, string>>): void => {
    for (const [name, text] of Object.entries(files)) {
      mkdirSync(dirname(join(root, name)), { recursive: true });
      writeFileSync(join(root, name), text);
    }
  };

  it('reads v2', async () => {
    write({
      'pod/cpu.stat': 'usage_usec 1234567\nuser_usec 1\n',
      'pod/memory.current': '1000000\n',
      'pod/memory.max': '4000000\n',
      'pod/memory.stat': 'anon 300000\nfile 500000\ninactive_file 200000\npgfault 11\npgmajfault 2\n',
      'pod/memory.events': 'low 0\nhigh 0\nmax 9\noom 3\noom_kill 2\n',
      'pod/memory.swap.current': '4096\n',
      'pod/memory.swap.max': 'max\n',
      'pod/pids.current': '7\n',
      'pod/pids.max': '100\n',
      'pod/cpu.pressure': 'some avg10=1.50 avg60=2.00 avg300=0.25 total=9007199254740993\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=7\n',
      // As cpu.pressure was before Linux 5.13.
      'pod/memory.pressure': 'some avg10=0.00 avg60=0.00 avg300=0.00 total=12\n',
    });
    const tree: Hierarchies = { mode: 'v2', v1: new Map(), unified: root };
    expect(await readStatsIn(tree, '/pod')).to.deep.equal({
      cpuUsageNs: 1_234_567_000n,
      memory: {
        usageBytes: 1_000_000,
        workingSetBytes: 800_000,
        rssBytes: 300_000,
        pageFaults: 11,
        majorPageFaults: 2,
        limitBytes: 4_000_000,
        availableBytes: 3_200_000,
      },
      swap: { usageBytes: 4096, limitBytes: undefined },
      pids: { current: 7, limit: 100 },
      oomKillCount: 2,
      pressure: {
        cpu: {
          some: { avg10: 1.5, avg60: 2, avg300: 0.25, totalUs: 9_007_199_254_740_993n },
          full: { avg10: 0, avg60: 0, avg300: 0, totalUs: 7n },
        },
        memory: {
          some: { avg10: 0, avg60: 0, avg300: 0, totalUs: 12n },
          full: { avg10: 0, avg60: 0, avg300: 0, totalUs: 0n },
        },
        io: undefined,
      },
    });
  });

  it('reads v1', async () => {
    write({
      'cpuacct/pod/cpuacct.usage': '987654321012345678\n',
      'memory/pod/memory.usage_in_bytes': '1000\n',
      'memory/pod/memory.limit_in_bytes': '9223372036854771712\n',
      'memory/pod/memory.memsw.usage_in_bytes': '1500\n',
      'memory/pod/memory.memsw.limit_in_bytes': '9223372036854771712\n',
      'memory/pod/memory.stat': 'total_rss 300\ntotal_inactive_file 1200\ntotal_pgfault 5\ntotal_pgmajfault 1\ninactive_file 1\n',
      'memory/pod/memory.oom_control': 'oom_kill_disable 0\nunder_oom 0\noom_kill 4\n',
      'pids/pod/pids.current': '2\n',
      'pids/pod/pids.max': 'max\n',
    });
    const tree: Hierarchies = {
      mode: 'hybrid',
      v1: new Map(['cpuacct', 'memory', 'pids'].map((name) => [name, join(root, name)])),
      unified: undefined,
    };
    const stats = await readStatsIn(tree, '/pod');
    expect(stats.cpuUsageNs).to.equal(987_654_321_012_345_678n);
    expect(stats.memory).to.include({
      usageBytes: 1000,
      workingSetBytes: 0,
      rssBytes: 300,
      limitBytes: undefined,
      availableBytes: undefined,
    });
    expect(stats.swap).to.deep.equal({ usageBytes: 500, limitBytes: undefined });
    expect(stats.pids).to.deep.equal({ current: 2, limit: undefined });
    expect(stats.oomKillCount).to.equal(4);
  });

  it('tells no OOM kills at all from a cgroup that is gone (R23)', async () => {
    for (const mode of ['v1', 'v2'] as const) {
      const tree: Hierarchies = { mode, v1: new Map([['memory', root]]), unified: root };
      write({
        'pod/memory.events': 'oom 2\noom_kill 2\n',
        'pod/memory.oom_control': 'under_oom 0\noom_kill 2\n',
        'idle/memory.events': 'oom_kill 0\n',
      });
      expect(await readOomKillsIn(tree, '/pod')).to.equal(2);
      expect(await readOomKillsIn(tree, '/none')).to.equal(undefined);
    }
  });

  it('counts what is missing as zero', async () => {
    for (const mode of ['v1', 'v2'] as const) {
      const stats = await readStatsIn({ mode, v1: new Map([['memory', root]]), unified: root }, '/none');
      expect(stats).to.deep.include({ cpuUsageNs: 0n, swap: undefined, oomKillCount: 0 });
    }
  });
});

describe('os/cgroup: resources', () => {
  it('become the files of either version', () => {
    const resources = { cpuShares: 1024, cpuQuotaUs: 50_000, memoryLimitBytes: 1 << 20, pidsLimit: 10 };
    const text = (version: 'v1' | 'v2', of = resources): string[] => settingsOf(of, version).map(({ file, value }) => `${file}=${value}`);
    expect(text('v2')).to.deep.equal(['cpu.weight=39', 'cpu.max=50000 100000', 'memory.max=1048576', 'pids.max=10']);
    expect(text('v1')).to.deep.equal([
      'cpu.shares=1024',
      'cpu.cfs_period_us=100000',
      'cpu.cfs_quota_us=50000',
      'memory.limit_in_bytes=1048576',
      'pids.max=10',
    ]);
    const none = { cpuShares: 2, cpuQuotaUs: 0, memoryLimitBytes: 0, pidsLimit: 0 };
    expect(text('v2', none)).to.deep.equal(['cpu.weight=1', 'cpu.max=max 100000', 'memory.max=max', 'pids.max=max']);
    expect(text('v1', none).slice(2)).to.deep.equal(['cpu.cfs_quota_us=-1', 'memory.limit_in_bytes=-1', 'pids.max=max']);
    expect(settingsOf({}, 'v2')).to.deep.equal([]);
  });
});

describe('os/cgroup: the real ones', function () {
  if (process.getuid?.() !== 0) return;
  this.timeout(10_000);
  leaksFail({ mountPrefixes: [] });
  const path = `/${TEST_CGROUP}`;
  afterEach(async () => {
    await killCgroup(path);
    await removeCgroup(path);
  });

  it('creates, joins, lists, reads, kills and removes', async () => {
    const below = `${path}/a/b`;
    await createCgroup(below);
    await createCgroup(below);
    expect(cgroupExists(below)).to.equal(true);
    const child = spawn({ argv: ['sleep', '60'] });
    await joinCgroup(below, child.pid);
    expect(cgroupOf(child.pid)).to.equal(below);
    expect(await procsIn(path)).to.deep.equal([child.pid]);
    expect((await readStats(path)).pids.current).to.equal(1);
    await killCgroup(path);
    expect((await child.exited).signal).to.equal(9);
    expect(await procsIn(path)).to.deep.equal([]);
    await removeCgroup(path);
    await removeCgroup(path);
    for (const dir of directoriesOf(hierarchies(), path)) expect(existsSync(dir), dir).to.equal(false);
  });

  it('ends what forks all the time', async () => {
    await createCgroup(path);
    await setResources(path, { pidsLimit: 60 });
    const bomb = 'import os,time\ntime.sleep(0.2)\nwhile 1:\n  try: os.fork()\n  except OSError: time.sleep(0.005)';
    const child = spawn({ argv: ['python3', '-c', bomb], setsid: true });
    await joinCgroup(path, child.pid);
    while ((await procsIn(path)).length <= 3) await sleep(20);
    await killCgroup(path);
    expect(await procsIn(path)).to.deep.equal([]);
    await child.exited;
  });

  it('writes resources', async () => {
    await createCgroup(path);
    await setResources(path, { cpuQuotaUs: 20_000, memoryLimitBytes: 64 << 20, pidsLimit: 50 });
    const { memory, pids } = await readStats(path);
    expect([memory.limitBytes, pids.limit]).to.deep.equal([64 << 20, 50]);
    if (cgroupMode() !== 'v2')
      expect(readFileSync(join(directoryOf(hierarchies(), path, 'cpu'), 'cpu.cfs_quota_us'), 'utf8')).to.equal('20000\n');
  });

  it('does not remove what has processes, nor kill a cgroup that we are in, nor the root', async () => {
    await createCgroup(path);
    const child = spawn({ argv: ['sleep', '60'] });
    await joinCgroup(path, child.pid);
    await removeCgroup(path).then(
      () => expect.fail(),
      (error: unknown) => expect(error).to.have.property('code', 'EBUSY'),
    );
    await killCgroup('/');
    await removeCgroup('/');
    const own = cgroupOf(process.pid) ?? '/';
    if (own !== '/') {
      await killCgroup(own).then(
        () => expect.fail(),
        (error: unknown) => expect(kindOf(error)).to.equal('failedPrecondition'),
      );
    }
    expect((await procsIn(path)).length).to.equal(1);
    await killCgroup(path);
    await child.exited;
  });

  it('is content with what is not there', async () => {
    await killCgroup(`${path}/none`);
    await removeCgroup(`${path}/none`);
    expect(await procsIn(`${path}/none`)).to.deep.equal([]);
    expect(cgroupOf(2 ** 30)).to.equal(undefined);
  });
});
