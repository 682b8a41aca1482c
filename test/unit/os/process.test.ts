import { setTimeout as sleep } from 'node:timers/promises';
import { expect } from 'chai';
import { errnoOf } from '../../../src/base/errors.ts';
import { argvOf, descendantsOf, findByArgv, isAlive, processRef, signal } from '../../../src/os/process.ts';
import type { Child } from '../../../src/os/spawn.ts';
import { spawn } from '../../../src/os/spawn.ts';
import { leaksFail } from '../../lib/leaks.ts';

const SIGKILL = 9;
const MARK = `gantry-test-mark-${process.pid}`;

describe('os/process', () => {
  leaksFail({ mountPrefixes: [] });
  let child: Child;
  beforeEach(async () => {
    child = spawn({ argv: ['sh', '-c', 'sleep 60 & wait', MARK] });
    while (argvOf(child.pid).length === 0) await sleep(1);
  });
  afterEach(async () => {
    try {
      process.kill(-child.pid, 'SIGKILL');
    } catch (error) {
      expect(errnoOf(error)).to.equal('ESRCH');
    }
    await child.exited;
  });

  it('knows a process by pid and start time', () => {
    expect(processRef(child.pid)).to.deep.equal({ pid: child.pid, startTime: child.startTime });
    expect(isAlive(child)).to.equal(true);
    expect(isAlive({ pid: child.pid, startTime: '1' })).to.equal(false);
    expect(processRef(2 ** 30)).to.equal(undefined);
  });

  it('never signals a process that has the pid of another', async () => {
    expect(signal({ pid: child.pid, startTime: '1' }, SIGKILL)).to.equal(false);
    expect(isAlive(child)).to.equal(true);
    expect(signal(child, SIGKILL)).to.equal(true);
    await child.exited;
    expect(isAlive(child)).to.equal(false);
    expect(signal(child, SIGKILL)).to.equal(false);
    expect(signal({ pid: 0, startTime: '' }, SIGKILL)).to.equal(false);
    expect(signal({ pid: -1, startTime: '' }, SIGKILL)).to.equal(false);
  });

  it('finds processes by argument and by descent', () => {
    expect(argvOf(child.pid)).to.deep.equal(['sh', '-c', 'sleep 60 & wait', MARK]);
    expect(argvOf(2 ** 30)).to.deep.equal([]);
    expect(findByArgv(MARK).map(({ pid }) => pid)).to.include(child.pid);
    expect(findByArgv(`${MARK}-none`)).to.deep.equal([]);
    expect(descendantsOf(process.pid).map(({ pid }) => pid)).to.include(child.pid);
  });

  it('takes a zombie for dead', async () => {
    // Its parent never waits for it.
    const parent = spawn({ argv: ['sh', '-c', 'sleep 0.05 & exec sleep 60'] });
    for (;;) {
      await sleep(10);
      const [zombie] = descendantsOf(parent.pid);
      if (zombie === undefined || isAlive(zombie)) continue;
      expect(processRef(zombie.pid)).to.deep.equal(zombie);
      break;
    }
    parent.kill(SIGKILL);
    await parent.exited;
  });
});
