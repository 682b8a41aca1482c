import { closeSync } from 'node:fs';
import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { expect } from 'chai';
import { newOp } from '../../../src/base/op.ts';
import type { ProcessRef } from '../../../src/os/process.ts';
import { processRef } from '../../../src/os/process.ts';
import { askThread, stopReactor, watchProcess } from '../../../src/os/reactor.ts';
import { run, spawn } from '../../../src/os/spawn.ts';
import { leaksFail } from '../../lib/leaks.ts';

const ROOT = join(import.meta.dirname, '../../..');
const op = (timeoutMs = 10_000) => newOp('test', { timeoutMs });
const SIGKILL = 9;

/** A program of its own with our sources, so that how a whole process ends can be seen. */
async function program(body: string, args: readonly string[] = []) {
  const script = `
    import { setTimeout as sleep } from 'node:timers/promises';
    import { startReactor, watchProcess } from './src/os/reactor.ts';
    import { spawn } from './src/os/spawn.ts';
    import { processRef } from './src/os/process.ts';
    ${body}`;
  const beganMs = Date.now();
  const result = await run(op(), { argv: [process.execPath, ...args, '--input-type=module', '-e', script], cwd: ROOT });
  return { exitCode: result.exitCode, tookMs: Date.now() - beganMs, stdout: result.stdout.toString(), stderr: result.stderr.toString() };
}

function refOf(pid: number): ProcessRef {
  const ref = processRef(pid);
  if (!ref) throw new Error(`no process ${pid}`);
  return ref;
}

describe('os/reactor', () => {
  leaksFail({ mountPrefixes: [] });
  let dir: string;
  before(async () => {
    dir = await mkdtemp(join(tmpdir(), 'gantry-test-reactor-'));
  });
  after(() => rm(dir, { recursive: true }));

  it('tells the status of our own child, to several watchers and after claims of it', async () => {
    const child = spawn({ argv: ['sh', '-c', 'sleep 0.1; exit 7'] });
    const [a, b, c] = await Promise.all([watchProcess(child), watchProcess(child), child.exited]);
    expect([a?.exitCode, b?.exitCode, c.exitCode]).to.deep.equal([7, 7, 7]);
  });

  it('tells the end of processes while the kernel keeps a job of namespaces, and goes on with jobs when it lets go', async function () {
    this.timeout(20_000);
    const fifo = join(dir, 'netns');
    await run(op(), { argv: ['mkfifo', fifo] });
    // Opening it for reading blocks until somebody writes.
    const stuck = askThread({ id: -1, verb: 'socket', request: { netns: fifo, domain: 2 } });
    const next = askThread({ id: -2, verb: 'socket', request: { netns: '/proc/self/ns/net', domain: 2 } });
    for (let round = 0; round < 3; round++) {
      const file = join(dir, `kept-${round}`);
      await run(op(), { argv: ['sh', '-c', `sleep 100 >/dev/null 2>&1 & echo $! > ${file}`] });
      const ref = refOf(Number(await readFile(file, 'utf8')));
      const ended = watchProcess(ref);
      process.kill(ref.pid, 'SIGKILL');
      const first = await Promise.race([ended, sleep(5000, 'nothing was told' as const)]);
      expect(first).to.not.equal('nothing was told');
    }
    await writeFile(fifo, '');
    expect((await stuck).error).to.match(/setns/);
    const { fd, error } = await next;
    expect(error).to.equal(undefined);
    closeSync(fd ?? -1);
    for (let id = -3; id > -20; id--)
      closeSync((await askThread({ id, verb: 'socket', request: { netns: '/proc/self/ns/net', domain: 2 } })).fd ?? -1);
    // With what the thread had open for jobs.
    await stopReactor();
  });

  it('takes one descriptor for all who watch a process that does not end (R5)', async () => {
    const file = join(dir, 'endless');
    await run(op(), { argv: ['sh', '-c', `sleep 100 >/dev/null 2>&1 & echo $! > ${file}`] });
    const ref = refOf(Number(await readFile(file, 'utf8')));
    const before = (await readdir('/proc/self/fd')).length;
    const watchers = Array.from({ length: 20 }, () => watchProcess(ref));
    expect((await readdir('/proc/self/fd')).length - before).to.be.at.most(1);
    process.kill(ref.pid, 'SIGKILL');
    for (const status of await Promise.all(watchers)) expect(status?.exitCode).to.equal(137);
  });

  it('adopts, collects and tells of an orphan', async () => {
    const file = join(dir, 'orphan');
    await run(op(), { argv: ['sh', '-c', `(sleep 0.2; exit 9) >/dev/null 2>&1 & echo $! > ${file}`] });
    const pid = Number(await readFile(file, 'utf8'));
    const ref = refOf(pid);
    const [a, b] = await Promise.all([watchProcess(ref), watchProcess(ref)]);
    expect([a?.exitCode, b?.exitCode]).to.deep.equal([9, 9]);
    expect(processRef(pid)).to.equal(undefined);
    // Asked again, it is remembered, by its identity and by its pid alone, but not for another process with that pid.
    expect((await watchProcess(ref))?.exitCode).to.equal(9);
    expect((await watchProcess({ pid, startTime: '' }))?.exitCode).to.equal(9);
    expect(await watchProcess({ pid, startTime: '1' })).to.equal(undefined);
  });

  it('resolves without a status for what is not our child', async () => {
    // The watched one is a child of the shell, which lives on.
    const file = join(dir, 'foreign');
    const parent = spawn({ argv: ['sh', '-c', `sleep 60 & echo $! > ${file}; wait; sleep 60`] });
    let pid = 0;
    while (pid === 0) {
      await sleep(5);
      pid = Number(await readFile(file, 'utf8').catch(() => '0'));
    }
    const ref = refOf(pid);
    const gone = watchProcess(ref);
    process.kill(pid, 'SIGKILL');
    expect(await gone).to.equal(undefined);
    process.kill(-parent.pid, 'SIGKILL');
    await parent.exited;
  });

  it('resolves at once for a process that has another start time', async () => {
    const child = spawn({ argv: ['sleep', '60'] });
    expect(await watchProcess({ pid: child.pid, startTime: '1' })).to.equal(undefined);
    child.kill(SIGKILL);
    await child.exited;
  });

  it('collects orphans that nobody watches', async () => {
    const before = await zombies();
    await run(op(), { argv: ['sh', '-c', 'for i in $(seq 200); do (sleep 0.05 &) ; done'] });
    await sleep(600);
    expect(await zombies()).to.be.at.most(before);
  });

  it('leaves children of node:child_process to it', async () => {
    const result = await program(`
      const { spawn: start } = await import('node:child_process');
      await startReactor();
      const ended = Array.from({ length: 50 }, () => new Promise((resolve) => start('true').on('exit', resolve)));
      console.log((await Promise.all(ended)).join(''));`);
    expect(result.stdout, result.stderr).to.equal(`${'0'.repeat(50)}\n`);
  });

  it('keeps no program from ending, before and after it had work', async () => {
    const result = await program(`await startReactor(); await spawn({ argv: ['true'] }).exited; console.log('end');`);
    expect(result, result.stderr).to.include({ exitCode: 0, stdout: 'end\n' });
    expect(result.tookMs).to.be.below(2000);
  });

  it('keeps a program alive while a child is awaited', async () => {
    const result = await program(`spawn({ argv: ['sleep', '0.5'] }).exited.then(({ exitCode }) => console.log('exit', exitCode));`);
    expect(result.stdout, result.stderr).to.equal('exit 0\n');
  });

  for (const [what, code, exitCode] of [
    ['an uncaught exception', `setTimeout(() => { throw new Error('on purpose'); }, 100)`, 1],
    ['an unhandled rejection', `setTimeout(() => void Promise.reject(new Error('on purpose')), 100)`, 1],
    ['process.exit', `setTimeout(() => process.exit(5), 100)`, 5],
  ] as const) {
    it(`does not hold up ${what} while it waits`, async () => {
      const result = await program(
        `await startReactor(); const child = spawn({ argv: ['sleep', '3'] }); await sleep(200); ${code}; await child.exited;`,
      );
      expect(result.exitCode, result.stderr).to.equal(exitCode);
      expect(result.tookMs).to.be.below(2000);
    });
  }

  it('can be stopped and started again', async () => {
    const result = await program(`
      const { stopReactor } = await import('./src/os/reactor.ts');
      for (let round = 0; round < 3; round++) { await startReactor(); console.log((await spawn({ argv: ['true'] }).exited).exitCode); await stopReactor(); }`);
    expect(result.stdout, result.stderr).to.equal('0\n0\n0\n');
  });

  async function zombies(): Promise<number> {
    const { stdout } = await run(op(), { argv: ['ps', '--ppid', String(process.pid), '-o', 'stat='] });
    return stdout
      .toString()
      .split('\n')
      .filter((state) => state.startsWith('Z')).length;
  }
});
