import { closeSync, openSync, readdirSync } from 'node:fs';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { expect } from 'chai';
import type { ClassifiedError } from '../../../src/base/errors.ts';
import { newOp } from '../../../src/base/op.ts';
import { isAlive, processRef } from '../../../src/os/process.ts';
import { pipe, run, spawn } from '../../../src/os/spawn.ts';
import { leaksFail } from '../../lib/leaks.ts';

const op = (timeoutMs = 10_000) => newOp('test', { timeoutMs });
const sh = (script: string, timeoutMs?: number) => run(op(timeoutMs), { argv: ['sh', '-c', script] });

async function failure(promise: Promise<unknown>): Promise<ClassifiedError> {
  try {
    await promise;
  } catch (error) {
    return error as ClassifiedError;
  }
  throw new Error('it did not fail');
}

describe('os/spawn', () => {
  leaksFail({ mountPrefixes: [] });
  let dir: string;
  before(async () => {
    dir = await mkdtemp(join(tmpdir(), 'gantry-test-spawn-'));
  });
  after(() => rm(dir, { recursive: true }));

  describe('run', () => {
    it('gives both outputs and the exit code', async () => {
      const result = await sh('echo out; echo err >&2; exit 3');
      expect(result.stdout.toString()).to.equal('out\n');
      expect(result.stderr.toString()).to.equal('err\n');
      expect(result.exitCode).to.equal(3);
      expect(result.signal).to.equal(0);
      expect(Number(result.exitedAtNs / 1_000_000n)).to.be.closeTo(Date.now(), 2000);
    });

    it('reports the signal that ended the child', async () => {
      const result = await sh('kill -9 $$');
      expect([result.exitCode, result.signal]).to.deep.equal([137, 9]);
    });

    it('feeds standard input of any size', async () => {
      const input = Buffer.alloc(300_000, 'x');
      const result = await run(op(), { argv: ['cat'], input });
      expect(result.stdout.equals(input)).to.equal(true);
    });

    it('survives a child that does not read its input', async () => {
      const result = await run(op(), { argv: ['true'], input: Buffer.alloc(1 << 20) });
      expect(result.exitCode).to.equal(0);
    });

    it('has the output of a child though the event loop stood still from its start until long after its end', async () => {
      const block = (ms: number): void => void Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, ms);
      // In the turn in which one exit is told two children begin and end; what follows the exit of the second holds the loop up until the timer for the first one's output is up.
      await spawn({ argv: ['true'] }).exited;
      const result = run(op(), { argv: ['echo', 'hello'] });
      const second = spawn({ argv: ['true'] });
      const held = second.exited.then(async () => {
        for (let turns = 0; turns < 50; turns++) await Promise.resolve();
        block(500);
      });
      block(300);
      expect((await result).stdout.toString()).to.equal('hello\n');
      await held;
    });

    it('drops output beyond its bound and says so, without blocking the child', async () => {
      const result = await run(op(), { argv: ['head', '-c', '3000000', '/dev/zero'], maxOutputBytes: 1000 });
      expect(result).to.include({ exitCode: 0, truncated: true });
      expect(result.stdout.length).to.equal(1000);
    });

    it('does not wait for a grandchild that keeps the pipes open', async () => {
      const beganMs = Date.now();
      const result = await sh('sleep 30 & echo $!');
      expect(Date.now() - beganMs).to.be.below(2000);
      process.kill(Number(result.stdout.toString()), 'SIGKILL');
    });

    it('gives the child its own environment, directory and signals', async () => {
      const argv = ['sh', '-c', 'echo "$A $B $HOME"; pwd; grep -E "Sig(Blk|Ign)" /proc/self/status'];
      const result = await run(op(), { argv, env: { A: '1', B: 'two words', PATH: '/usr/bin:/bin' }, cwd: dir });
      const zeros = '0'.repeat(16);
      expect(result.stdout.toString()).to.equal(`1 two words \n${dir}\nSigBlk:\t${zeros}\nSigIgn:\t${zeros}\n`);
    });

    it('is nice when it is asked to be, with its children', async () => {
      const nice = async (niceness?: number): Promise<string> => {
        const argv = ['sh', '-c', 'sleep 0.1; (nice)'];
        return (await run(op(), { argv, ...(niceness === undefined ? {} : { niceness }) })).stdout.toString().trim();
      };
      expect(await nice(7)).to.equal('7');
      expect(await nice()).to.equal('0');
    });

    it('names a program that is not there', async () => {
      const unknown = await failure(run(op(), { argv: ['gantry-no-such-program'] }));
      expect(unknown).to.include({ kind: 'failedPrecondition', message: 'run gantry-no-such-program: not found on PATH' });
      const missing = await failure(run(op(), { argv: [join(dir, 'missing')] }));
      expect(missing).to.include({ kind: 'failedPrecondition', message: `run ${join(dir, 'missing')}: not found` });
      const directory = await failure(run(op(), { argv: [dir] }));
      expect(directory.message).to.equal(`run ${dir}: not executable (EACCES)`);
      expect((await failure(run(op(), { argv: ['true'], cwd: join(dir, 'missing') }))).message).to.contain('no directory');
    });

    it('refuses a NUL byte', async () => {
      expect((await failure(run(op(), { argv: ['echo', 'a\0b'] }))).kind).to.equal('invalidArgument');
    });

    it('ends a child that ignores SIGTERM, and its children, at the deadline', async () => {
      const beganMs = Date.now();
      const pidFile = join(dir, 'pids');
      const error = await failure(sh(`trap "" TERM; sleep 60 & echo $$ $! > ${pidFile}; wait`, 300));
      expect(error.kind).to.equal('deadlineExceeded');
      expect(error.message).to.match(/^run sh: /);
      expect(Date.now() - beganMs).to.be.within(290, 2000);
      const pids = (await readFile(pidFile, 'utf8')).trim().split(' ').map(Number);
      await sleep(150);
      for (const ref of pids.map((pid) => processRef(pid))) expect(ref === undefined || !isAlive(ref)).to.equal(true);
    });

    it('is cancelled', async () => {
      const abort = new AbortController();
      setTimeout(() => abort.abort(), 50);
      const error = await failure(run(newOp('test', { signal: abort.signal }), { argv: ['sleep', '60'] }));
      expect(error.kind).to.equal('cancelled');
    });
  });

  describe('spawn', () => {
    it('gives exactly the descriptors that are named, whatever their numbers are here', async () => {
      const [a, b] = [openSync(join(dir, 'a'), 'w'), openSync(join(dir, 'b'), 'w')];
      const out = pipe();
      // A swap: each source has the number of the other's target.
      const fds = new Map([
        [a, b],
        [b, a],
      ]);
      const argv = ['sh', '-c', `echo to-b >/proc/self/fd/${a}; echo to-a >/proc/self/fd/${b}; ls /proc/self/fd | tr '\\n' ' '`];
      const child = spawn({ argv, fds, stdout: out.write });
      closeSync(out.write);
      const text = await readFile(`/proc/self/fd/${out.read}`, 'utf8');
      expect((await child.exited).exitCode).to.equal(0);
      for (const fd of [a, b, out.read]) closeSync(fd);
      expect(await readFile(join(dir, 'a'), 'utf8')).to.equal('to-a\n');
      expect(await readFile(join(dir, 'b'), 'utf8')).to.equal('to-b\n');
      const numbers = text.trim().split(' ').map(Number);
      // ls has opened the directory itself.
      expect(numbers.filter((fd) => fd > 2 && fd !== a && fd !== b).length).to.be.at.most(1);
    });

    it('makes a session, or else a process group', async () => {
      for (const setsid of [true, false]) {
        const child = spawn({ argv: ['sleep', '60'], setsid });
        const fields = (await readFile(`/proc/${child.pid}/stat`, 'utf8')).split(') ')[1]?.split(' ') ?? [];
        expect(Number(fields[2])).to.equal(child.pid);
        expect(Number(fields[3]) === child.pid).to.equal(setsid);
        child.kill(9);
        await child.exited;
      }
    });

    it('kills through the pidfd, and a child that has ended is no error', async () => {
      const child = spawn({ argv: ['sleep', '60'] });
      child.kill(15);
      expect(await child.exited).to.include({ exitCode: 143, signal: 15 });
      child.kill(9);
    });

    it('2,000 times at concurrency 16, with flat descriptors', async function () {
      this.timeout(30_000);
      const { exitCode } = await spawn({ argv: ['/bin/true'] }).exited;
      expect(exitCode).to.equal(0);
      const before = readdirSync('/proc/self/fd').length;
      let left = 2000;
      let most = 0;
      const worker = async (): Promise<void> => {
        while (left-- > 0) {
          expect((await spawn({ argv: ['/bin/true'] }).exited).exitCode).to.equal(0);
          if (left % 100 === 0) most = Math.max(most, readdirSync('/proc/self/fd').length);
        }
      };
      await Promise.all(Array.from({ length: 16 }, worker));
      expect(most).to.be.below(before + 40);
      expect(readdirSync('/proc/self/fd').length).to.be.at.most(before + 1);
    });

    it('restores the soft limit of open files that the launcher saw', async () => {
      const script = `import { newOp } from './src/base/op.ts'; import { run } from './src/os/spawn.ts'; import { getNofile } from './src/os/syscalls.ts';
        const { stdout } = await run(newOp('x'), { argv: ['sh', '-c', 'ulimit -Sn'] });
        console.log(stdout.toString().trim(), getNofile().soft);`;
      const env = { PATH: process.env['PATH'] ?? '', GANTRY_NOFILE_SOFT: '300' };
      const result = await run(op(), {
        argv: [process.execPath, '--input-type=module', '-e', script],
        env,
        cwd: join(import.meta.dirname, '../../..'),
      });
      const [child, own] = result.stdout.toString().trim().split(' ').map(Number);
      expect(child, result.stderr.toString()).to.equal(300);
      expect(own).to.be.above(300);
    });
  });
});
