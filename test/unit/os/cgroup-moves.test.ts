import { expect } from 'chai';
import { readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { findHierarchies } from '../../../src/os/cgroup-hierarchies.ts';
import { expectCgroupMoves, procsFileOf } from '../../../src/os/cgroup-moves.ts';

const V1 = '30 20 0:25 / /cg/pids rw - cgroup cgroup rw,pids\n31 20 0:26 / /cg/cpu rw - cgroup cgroup rw,cpu,cpuacct\n';
const V2 = '32 20 0:27 / /cg/unified rw - cgroup2 cgroup2 rw\n';

describe('os/cgroup-moves', () => {
  it('names the file of the cgroup that the process is in, whatever the hierarchies are', () => {
    expect(procsFileOf(findHierarchies(V2), '0::/system.slice/gantry.service\n')).to.equal(
      '/cg/unified/system.slice/gantry.service/cgroup.procs',
    );
    expect(procsFileOf(findHierarchies(V1 + V2), '3:cpu,cpuacct:/a:b\n2:pids:/c\n0::/d\n')).to.equal('/cg/cpu/a:b/cgroup.procs');
    expect(procsFileOf(findHierarchies(V1), '4:net_cls:/x\n2:pids:/\n')).to.equal('/cg/pids/cgroup.procs');
  });

  it('leaves the process where it is, and keeps no file', async function () {
    if (process.getuid?.() !== 0) return this.skip();
    const where = (): string => readFileSync('/proc/self/cgroup', 'utf8');
    const files = (): string[] =>
      readdirSync('/proc/self/fd').flatMap((fd) => {
        try {
          const path = readlinkSync(`/proc/self/fd/${fd}`);
          return path.endsWith('/cgroup.procs') ? [path] : [];
        } catch {
          return [];
        }
      });
    const before = where();
    expectCgroupMoves(60);
    expectCgroupMoves(80);
    for (let n = 0; files().length === 0 && n < 50; n++) await sleep(1);
    expect(files()).to.have.length(1);
    await sleep(100);
    for (let n = 0; files().length > 0 && n < 200; n++) await sleep(10);
    expect(files()).to.deep.equal([]);
    expect(where()).to.equal(before);
  });
});
