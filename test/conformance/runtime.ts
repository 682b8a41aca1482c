import { randomBytes } from 'node:crypto';
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  realpathSync,
  renameSync,
  rmdirSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { expect } from 'chai';
import { kindOf, messageOf } from '../../src/base/errors.ts';
import { newOp } from '../../src/base/op.ts';
import type { Op } from '../../src/base/op.ts';
import type { ContainerIo, CreatedContainer, Runtime } from '../../src/runtime/runtime.ts';

/** What an implementation can't do, each with its reason in the integration test. */
export interface RuntimeSuiteOptions {
  /** Makes a driver on `stateDir`; called again for a "restarted daemon" on the same directory. */
  open(stateDir: string): Runtime;
  /** The container's processes are seen on the host. */
  readonly hostProcesses: boolean;
  readonly update: boolean;
  readonly oom: boolean;
}

export interface BundleOptions {
  readonly hostPid?: boolean;
  readonly tty?: boolean;
  readonly memoryBytes?: number;
  readonly env?: readonly string[];
  readonly poststart?: ReadonlyArray<{ readonly path: string; readonly args: readonly string[] }>;
}

const APPLETS = ['sh', 'sleep', 'echo', 'setsid', 'cat', 'ps', 'dd', 'yes', 'kill', 'mkdir', 'touch', 'env', 'stty', 'true', 'seq'];
export const SIGKILL = 9;
export const SIGTERM = 15;
export const SIGSTOP = 19;

export const op = (timeoutMs = 20_000): Op => newOp('test', { timeoutMs });

export async function until<T>(what: string, probe: () => T | undefined | false, timeoutMs = 5000): Promise<T> {
  const end = Date.now() + timeoutMs;
  for (;;) {
    const value = probe();
    if (value !== undefined && value !== false) return value;
    if (Date.now() > end) throw new Error(`waited in vain for ${what}`);
    await sleep(10);
  }
}

/** pids whose command line contains the text; zombies have none. */
export function pidsWith(text: string): number[] {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name) && Number(name) !== process.pid)
    .filter((name) => {
      try {
        return readFileSync(`/proc/${name}/cmdline`, 'latin1').replaceAll('\0', ' ').includes(text);
      } catch {
        return false;
      }
    })
    .map(Number);
}

export function cgroupDirs(name: string): string[] {
  const roots = existsSync('/sys/fs/cgroup/cgroup.controllers') ? [''] : readdirSync('/sys/fs/cgroup');
  return roots.map((root) => join('/sys/fs/cgroup', root, name)).filter((dir) => existsSync(dir));
}

/** A temp dir with one static-busybox rootfs, bundles and a driver's state; a cgroup parent of its own. */
export class TestBed {
  readonly dir = realpathSync(mkdtempSync(join(tmpdir(), 'gantry-test-')));
  readonly cgroup = `gantry-test-${randomBytes(4).toString('hex')}`;
  readonly stateDir = join(this.dir, 'state');
  readonly #rootfs = join(this.dir, 'rootfs');

  constructor() {
    for (const name of ['bin', 'proc', 'dev', 'tmp', 'sys', 'etc']) mkdirSync(join(this.#rootfs, name), { recursive: true });
    copyFileSync('/bin/busybox', join(this.#rootfs, 'bin/busybox'));
    for (const applet of APPLETS) symlinkSync('busybox', join(this.#rootfs, 'bin', applet));
  }

  newId(): string {
    return randomBytes(32).toString('hex');
  }

  process(args: readonly string[], options: BundleOptions = {}): Record<string, unknown> {
    const capabilities = ['CAP_KILL', 'CAP_CHOWN'];
    return {
      terminal: options.tty ?? false,
      user: { uid: 0, gid: 0 },
      args,
      env: ['PATH=/bin', ...(options.env ?? [])],
      cwd: '/',
      capabilities: { bounding: capabilities, effective: capabilities, permitted: capabilities },
    };
  }

  bundle(id: string, args: readonly string[], options: BundleOptions = {}): string {
    const bundle = join(this.dir, 'b', id);
    mkdirSync(bundle, { recursive: true, mode: 0o700 });
    const namespaces = ['mount', 'ipc', 'uts', 'network', ...(options.hostPid ? [] : ['pid'])].map((type) => ({ type }));
    const config = {
      ociVersion: '1.0.0',
      process: this.process(args, options),
      root: { path: this.#rootfs },
      ...(options.poststart && { hooks: { poststart: options.poststart } }),
      hostname: 'test',
      mounts: [
        { destination: '/proc', type: 'proc', source: 'proc' },
        { destination: '/dev', type: 'tmpfs', source: 'tmpfs', options: ['nosuid', 'mode=755'] },
        { destination: '/dev/pts', type: 'devpts', source: 'devpts', options: ['nosuid', 'noexec', 'newinstance', 'ptmxmode=0666'] },
      ],
      linux: {
        cgroupsPath: `/${this.cgroup}/${id}`,
        resources: { ...(options.memoryBytes === undefined ? {} : { memory: { limit: options.memoryBytes } }) },
        namespaces,
      },
    };
    writeFileSync(join(bundle, 'config.json'), JSON.stringify(config));
    return bundle;
  }

  logPath(id: string): string {
    return join(this.dir, `${id}.log`);
  }

  io(id: string, tty = false): ContainerIo {
    return { logPath: this.logPath(id), tty, stdin: false, stdinOnce: false };
  }

  async create(runtime: Runtime, id: string, args: readonly string[], options: BundleOptions = {}): Promise<CreatedContainer> {
    const bundle = this.bundle(id, args, options);
    return runtime.create(op(), { id, bundle, io: this.io(id, options.tty), cgroupParent: `/${this.cgroup}` });
  }

  async started(runtime: Runtime, id: string, args: readonly string[], options: BundleOptions = {}): Promise<CreatedContainer> {
    const created = await this.create(runtime, id, args, options);
    await runtime.start(op(), id);
    return created;
  }

  /** Text of the log without stamps; the format of every line is checked. */
  log(id: string): string {
    const lines = readFileSync(this.logPath(id), 'utf8').split('\n').slice(0, -1);
    return lines
      .map((line) => {
        const [, tag, text] = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+\S+ (?:stdout|stderr) ([FP]) ([^\n]*)$/.exec(line) ?? [];
        expect(tag, `CRI log line ${JSON.stringify(line)}`).to.be.oneOf(['F', 'P']);
        return `${text}${tag === 'F' ? '\n' : ''}`;
      })
      .join('');
  }

  /** Everything that a container may leave. */
  expectGone(id: string): void {
    expect(pidsWith(id), 'processes').to.deep.equal([]);
    expect(cgroupDirs(join(this.cgroup, id)), 'cgroups').to.deep.equal([]);
    expect(readFileSync('/proc/self/mounts', 'utf8')).to.not.include(id);
    for (const sub of ['root', 'c', 's']) expect(readdirSync(join(this.stateDir, sub)).join(' '), sub).to.not.include(id);
  }

  dispose(): void {
    for (const name of [this.cgroup]) for (const dir of cgroupDirs(name)) removeCgroupDirs(dir);
    rmSync(this.dir, { recursive: true, force: true });
  }
}

function removeCgroupDirs(dir: string): void {
  for (const entry of readdirSync(dir, { withFileTypes: true })) if (entry.isDirectory()) removeCgroupDirs(join(dir, entry.name));
  for (let attempt = 0; attempt < 50; attempt++) {
    try {
      rmdirSync(dir);
      return;
    } catch {
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 20);
    }
  }
  throw new Error(`cgroup ${dir} stays: ${readFileSync(join(dir, 'cgroup.procs'), 'latin1')}`);
}

async function failure(promise: Promise<unknown>): Promise<{ kind: string; message: string }> {
  try {
    await promise;
  } catch (error) {
    return { kind: kindOf(error), message: messageOf(error) };
  }
  throw new Error('it did not fail');
}

const SLEEPER = ['/bin/sh', '-c', 'trap "exit 7" TERM; echo ready; while :; do sleep 0.1; done'];

/** The contract of `Runtime`, on a real program. Every container it makes is gone when its test ends. */
export function runtimeSuite(name: string, options: RuntimeSuiteOptions): void {
  describe(`Runtime contract: ${name}`, function () {
    this.timeout(40_000);
    let bed: TestBed;
    let runtime: Runtime;
    let id: string;

    before(() => {
      bed = new TestBed();
      runtime = options.open(bed.stateDir);
    });
    after(() => bed.dispose());
    beforeEach(() => {
      id = bed.newId();
    });
    afterEach(async () => {
      await runtime.delete(op(), id);
      bed.expectGone(id);
    });

    const sleeper = async (more: BundleOptions = {}): Promise<CreatedContainer> => {
      const created = await bed.started(runtime, id, SLEEPER, more);
      await until('the container to be ready', () => existsSync(bed.logPath(id)) && bed.log(id).includes('ready'));
      return created;
    };
    const exec = (args: readonly string[], more: { timeoutMs?: number; maxOutputBytes?: number } = {}) =>
      runtime.execSync(op(), id, { process: bed.process(args), maxOutputBytes: more.maxOutputBytes ?? 1 << 20, timeoutMs: more.timeoutMs });

    it('says its version', async () => {
      expect(await runtime.version(op())).to.match(/\d/);
      expect(await runtime.features()).to.have.all.keys('recursiveReadOnlyMounts', 'userNamespaces', 'seccomp');
    });

    it('creates without starting, runs, logs and tells the exit code', async () => {
      const created = await bed.create(runtime, id, ['/bin/sh', '-c', 'echo out; echo err >&2; exit 3']);
      expect(await runtime.list(op())).to.include(id);
      expect(readFileSync(bed.logPath(id), 'utf8')).to.equal('');
      await runtime.start(op(), id);
      const exit = await runtime.waitExit(id, created);
      expect(exit).to.include({ exitCode: 3, signal: 0, oomKilled: false });
      expect(Math.abs(Number(exit.exitedAtNs / 1_000_000n) - Date.now())).to.be.lessThan(10_000);
      expect(bed.log(id).split('\n').sort()).to.deep.equal(['', 'err', 'out']);
    });

    it('knows whether it has started a container, and starts it once', async () => {
      const created = await bed.create(runtime, id, SLEEPER);
      expect(await runtime.isStarted(op(), id)).to.equal(false);
      await runtime.start(op(), id);
      expect(await runtime.isStarted(op(), id)).to.equal(true);
      expect((await failure(runtime.start(op(), id))).kind).to.equal('internal');
      await runtime.kill(op(), id, SIGKILL, false);
      await runtime.waitExit(id, created);
    });

    // gVisor's waits for ever.
    if (options.hostProcesses) {
      it('does not start what has ended, and says so in the words of the runtime', async () => {
        const created = await bed.create(runtime, id, SLEEPER);
        await runtime.kill(op(), id, SIGKILL, false);
        await runtime.waitExit(id, created);
        const { kind, message } = await failure(runtime.start(op(), id));
        expect(kind).to.equal('internal');
        expect(message).to.match(/ start .*(stopped|not running|dead|sandbox)/i);
      });

      it('runs the hooks of a start', async () => {
        const file = join(bed.dir, `${id}.hook`);
        const created = await bed.started(runtime, id, ['/bin/true'], {
          poststart: [{ path: '/bin/sh', args: ['sh', '-c', `echo ran >${file}`] }],
        });
        await runtime.waitExit(id, created);
        expect(readFileSync(file, 'utf8')).to.equal('ran\n');
      });
    }

    it('splits long lines and loses nothing of a burst before the exit', async () => {
      const created = await bed.started(runtime, id, ['/bin/sh', '-c', 'seq 1 200000; echo -n tail']);
      await runtime.waitExit(id, created);
      expect(bed.log(id)).to.equal(`${Array.from({ length: 200_000 }, (_, index) => `${index + 1}\n`).join('')}tail`);
    });

    it('delivers signals to init', async () => {
      const created = await sleeper();
      await runtime.kill(op(), id, SIGTERM, false);
      expect(await runtime.waitExit(id, created)).to.include({ exitCode: 7, oomKilled: false });
      await runtime.kill(op(), id, SIGKILL, false);
      await runtime.kill(op(), id, SIGKILL, true);
    });

    it('reports death by SIGKILL as 137', async () => {
      const created = await sleeper();
      await runtime.kill(op(), id, SIGKILL, true);
      expect(await runtime.waitExit(id, created)).to.include({ exitCode: 137, signal: SIGKILL, oomKilled: false });
    });

    it('does not know a container that was never made', async () => {
      await runtime.delete(op(), id);
      await runtime.kill(op(), id, SIGKILL, true);
      expect((await failure(runtime.start(op(), id))).kind).to.equal('notFound');
      expect((await failure(exec(['/bin/true']))).kind).to.equal('notFound');
    });

    it('deletes a running container, twice and at once', async () => {
      const created = await sleeper();
      await Promise.all([runtime.delete(op(), id), runtime.delete(op(), id)]);
      expect(existsSync(`/proc/${created.init.pid}`) && pidsWith(id).length > 0).to.equal(false);
      await runtime.delete(op(), id);
      expect(await runtime.list(op())).to.not.include(id);
    });

    it('leaves nothing of a command that is not there, and says so in the words of the runtime', async () => {
      const creating = bed.create(runtime, id, ['/no/such/command']).then(() => runtime.start(op(), id));
      const { message } = await failure(creating);
      expect(message)
        .to.match(/no such|not found/i)
        .and.include(id);
      if (!(await runtime.list(op())).includes(id)) bed.expectGone(id);
    });

    it('leaves nothing of a create that is cut off', async () => {
      const abort = new AbortController();
      const bundle = bed.bundle(id, SLEEPER);
      const request = { id, bundle, io: bed.io(id), cgroupParent: '' };
      const creating = runtime.create({ ...op(), signal: abort.signal }, request).then(
        () => 'created before it could be cut off',
        () => 'cut off',
      );
      await sleep(4);
      abort.abort();
      if ((await creating) === 'cut off') bed.expectGone(id);
    });

    it('gives exec its exit code and its streams', async () => {
      await sleeper();
      const { exitCode, stdout, stderr, truncated } = await exec(['/bin/sh', '-c', 'echo out; echo err >&2; exit 42']);
      expect({ exitCode, stdout: stdout.toString(), stderr: stderr.toString(), truncated }).to.deep.equal({
        exitCode: 42,
        stdout: 'out\n',
        stderr: 'err\n',
        truncated: { stdout: false, stderr: false },
      });
    });

    it('runs many short execs at once and gets each code right', async () => {
      await sleeper();
      const codes = await Promise.all(
        Array.from({ length: 8 }, async (_, code) => (await exec(['/bin/sh', '-c', `exit ${code}`])).exitCode),
      );
      expect(codes).to.deep.equal([0, 1, 2, 3, 4, 5, 6, 7]);
    });

    it('refuses an exec of a command that is not there', async () => {
      await sleeper();
      expect((await failure(exec(['/no/such/command']))).message).to.match(/no such|not found/i);
    });

    it('caps the output of exec', async () => {
      await sleeper();
      const { stdout, truncated } = await exec(['/bin/sh', '-c', 'seq 1 100000'], { maxOutputBytes: 1000 });
      expect(truncated).to.deep.equal({ stdout: true, stderr: false });
      expect(stdout.toString())
        .to.have.length(1000)
        .and.match(/^1\n2\n/);
    });

    it('returns from exec when the command does, whoever keeps its pipes (R15)', async () => {
      await sleeper();
      const startMs = Date.now();
      const { exitCode, stdout } = await exec(['/bin/sh', '-c', 'echo done; sleep 1234 & exit 5']);
      expect({ exitCode, stdout: stdout.toString() }).to.deep.equal({ exitCode: 5, stdout: 'done\n' });
      expect(Date.now() - startMs).to.be.lessThan(options.hostProcesses ? 1000 : 3000);
      expect((await exec(['/bin/ps'])).stdout.toString()).to.include('sleep 1234');
    });

    it('kills all of an exec at its timeout, however it hides (R14)', async () => {
      await sleeper();
      const script = options.hostProcesses
        ? '(setsid sh -c "sleep 4321 & sleep 4321" &) ; (sleep 4321 &) ; setsid sleep 4321 & trap "" TERM; sleep 4321'
        : 'sleep 4321; true';
      const startMs = Date.now();
      const { kind, message } = await failure(exec(['/bin/sh', '-c', script], { timeoutMs: 700 }));
      expect(kind).to.equal('deadlineExceeded');
      expect(message).to.include('exec sync').and.include('timed out after 700 ms');
      expect(Date.now() - startMs).to.be.within(650, 3000);
      const { stdout } = await exec(['/bin/ps']);
      expect(stdout.toString()).to.include('/bin/ps').and.not.include('4321');
    });

    if (options.hostProcesses) {
      it('kills what init left behind outside a PID namespace (R17)', async () => {
        const mark = `86${Math.floor(Math.random() * 1e6)}`;
        const args = ['/bin/sh', '-c', `setsid sleep ${mark} & sleep ${mark} & echo ready; sleep 0.2; exit 4`];
        const created = await bed.started(runtime, id, args, { hostPid: true });
        expect(await runtime.waitExit(id, created)).to.include({ exitCode: 4 });
        expect(pidsWith(mark)).to.not.deep.equal([]);
        await runtime.kill(op(), id, SIGKILL, true);
        await until('its children to go', () => pidsWith(mark).length === 0);
      });

      it('notices a lost monitor at once and ends the container (R21)', async () => {
        const created = await sleeper();
        const exited = runtime.waitExit(id, created);
        process.kill(created.monitor.pid, SIGKILL);
        const startMs = Date.now();
        expect(await exited).to.include({ exitCode: 137, signal: SIGKILL });
        expect(Date.now() - startMs).to.be.lessThan(2000);
      });

      it('survives a stopped monitor: the exit is told, delete does not hang (R5)', async () => {
        const created = await sleeper();
        process.kill(created.monitor.pid, SIGSTOP);
        const exited = runtime.waitExit(id, created);
        await runtime.kill(op(), id, SIGTERM, false);
        expect(await exited).to.include({ exitCode: 7 });
      });

      it('deletes a running container with a stopped monitor (R5)', async () => {
        const created = await sleeper();
        process.kill(created.monitor.pid, SIGSTOP);
        await runtime.delete(op(), id);
        expect(existsSync(`/proc/${created.monitor.pid}`) && pidsWith(id).length > 0).to.equal(false);
      });
    }

    it('reopens the log without losing a line (R25)', async () => {
      const script = 'i=0; while [ $i -lt 3000 ]; do echo $i; i=$((i+1)); [ $((i % 100)) = 0 ] && sleep 0.02; done';
      const created = await bed.started(runtime, id, ['/bin/sh', '-c', script]);
      const parts: string[] = [];
      for (let round = 0; round < 5; round++) {
        await sleep(40);
        const rotated = `${bed.logPath(id)}.${round}`;
        renameSync(bed.logPath(id), rotated);
        await runtime.reopenLog(op(), id);
        expect(existsSync(bed.logPath(id))).to.equal(true);
        parts.push(rotated);
      }
      const { ino } = statSync(bed.logPath(id));
      await runtime.reopenLog(op(), id);
      expect(statSync(bed.logPath(id)).ino, 'a log that is written to already is not replaced').to.equal(ino);
      await runtime.waitExit(id, created);
      const lines = [...parts, bed.logPath(id)].flatMap((path) => readFileSync(path, 'utf8').split('\n').filter(Boolean));
      expect(lines.map((line) => line.split(' F ')[1])).to.deep.equal(Array.from({ length: 3000 }, (_, index) => String(index)));
    });

    it('gives a terminal when asked', async () => {
      const created = await bed.started(runtime, id, ['/bin/sh', '-c', 'test -t 1 && echo tty'], { tty: true });
      expect(await runtime.waitExit(id, created)).to.include({ exitCode: 0 });
      expect(bed.log(id)).to.match(/^tty\r?\n$/);
    });

    it('tells a restarted daemon what happened meanwhile', async () => {
      const created = await sleeper();
      await runtime.kill(op(), id, SIGTERM, false);
      await until('the exit', () => existsSync(join(bed.stateDir, 'c', id, 'exit')));
      const restarted = options.open(bed.stateDir);
      expect(await restarted.list(op())).to.include(id);
      expect(await restarted.waitExit(id, created)).to.include({ exitCode: 7, oomKilled: false });
      await restarted.delete(op(), id);
    });

    it('serves a container of an earlier daemon', async () => {
      const created = await sleeper();
      const restarted = options.open(bed.stateDir);
      expect(
        (await restarted.execSync(op(), id, { process: bed.process(['/bin/echo', 'hi']), maxOutputBytes: 100, timeoutMs: 5000 })).exitCode,
      ).to.equal(0);
      await restarted.kill(op(), id, SIGTERM, false);
      expect(await restarted.waitExit(id, created)).to.include({ exitCode: 7 });
    });

    if (options.update) {
      it('updates resources', async () => {
        await sleeper();
        await runtime.update(op(), id, { linux: { pids: { limit: 123 } } });
        const file = cgroupDirs(join(bed.cgroup, id))
          .map((dir) => join(dir, 'pids.max'))
          .find((path) => existsSync(path));
        expect(readFileSync(file ?? '', 'utf8').trim()).to.equal('123');
      });
    }

    if (options.oom) {
      it('tells an OOM kill of init, and not one of a child (R23)', async () => {
        const memoryBytes = 32 << 20;
        const killed = await bed.started(runtime, id, ['/bin/dd', 'if=/dev/zero', 'of=/dev/null', 'bs=100M', 'count=1'], { memoryBytes });
        expect(await runtime.waitExit(id, killed)).to.include({ exitCode: 137, oomKilled: true });
        await runtime.delete(op(), id);
        bed.expectGone(id);
        id = bed.newId();
        const args = [
          '/bin/sh',
          '-c',
          'trap "exit 7" TERM; dd if=/dev/zero of=/dev/null bs=100M count=1; echo ready; while :; do sleep 0.1; done',
        ];
        const survivor = await bed.started(runtime, id, args, { memoryBytes });
        await until('its child to die', () => bed.log(id).includes('ready'));
        await runtime.kill(op(), id, SIGKILL, true);
        expect(await runtime.waitExit(id, survivor)).to.include({ exitCode: 137, oomKilled: false });
      });
    }
  });
}
