import type { ChildProcess } from 'node:child_process';
import { spawn as spawnChild } from 'node:child_process';
import { once } from 'node:events';
import { chmodSync, existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { expect } from 'chai';
import { silentLogger } from '../../src/base/log.ts';
import { startReactor, stopReactor } from '../../src/os/reactor.ts';
import { createOciRuntime } from '../../src/runtime/oci.ts';
import type { OciRuntime } from '../../src/runtime/oci.ts';
import { findProgram } from '../../src/runtime/program.ts';
import { StateDir } from '../../src/runtime/state-dir.ts';
import { runtimeStreamsSuite } from '../conformance/runtime-streams.ts';
import type { BundleOptions, RuntimeSuiteOptions } from '../conformance/runtime.ts';
import { op, pidsWith, runtimeSuite, SIGKILL, TestBed, until } from '../conformance/runtime.ts';
import { idmappingRunc } from '../lib/programs.ts';

const ROOT = join(import.meta.dirname, '../..');
const HYBRID = existsSync('/sys/fs/cgroup/unified');

function has(program: string): boolean {
  try {
    findProgram(program);
    return true;
  } catch {
    return false;
  }
}

function open(path: string, args: readonly string[], stateDir: string): OciRuntime {
  mkdirSync(stateDir, { recursive: true });
  return createOciRuntime({
    handler: { name: 'test', type: 'oci', path, args, snapshotter: 'overlay' },
    conmonPath: 'conmon',
    stateDir,
    cgroupDriver: 'cgroupfs',
    log: silentLogger,
    exitFileTimeoutMs: 500,
  });
}

/** crun takes a hybrid host for a v2 one and fails; without the unified mount it sees v1 (DESIGN 3.11). */
function crunFor(stateDir: string): string {
  if (!HYBRID) return 'crun';
  const wrapper = join(dirname(stateDir), 'crun');
  const body = `umount /sys/fs/cgroup/unified; exec crun "$@"`;
  writeFileSync(wrapper, `#!/bin/sh\nexec unshare -m sh -c '${body}' crun "$@"\n`);
  chmodSync(wrapper, 0o755);
  return wrapper;
}

describe('OCI runtimes', () => {
  before(async function () {
    if (process.getuid?.() !== 0 || !has('conmon')) this.skip();
    await startReactor();
  });
  after(() => stopReactor());

  const suites = (name: string, options: RuntimeSuiteOptions): void => {
    runtimeSuite(name, options);
    runtimeStreamsSuite(name, options);
  };

  if (has('runc')) suites('runc', { open: (dir) => open('runc', [], dir), hostProcesses: true, update: true, oom: true });

  const newer = idmappingRunc();
  if (newer !== undefined) {
    suites('runc with idmapped mounts', { open: (dir) => open(newer, [], dir), hostProcesses: true, update: true, oom: true });
  }

  if (has('crun')) suites('crun', { open: (dir) => open(crunFor(dir), [], dir), hostProcesses: true, update: true, oom: true });

  // gVisor's Debian build (2022) has no update, kills only descendants at an exec's timeout, and its OOM is the sandbox's
  if (has('runsc')) {
    suites('runsc', {
      open: (dir) => open('runsc', ['--platform=ptrace', '--network=none'], dir),
      hostProcesses: false,
      update: false,
      oom: false,
    });
  }
});

describe('conmon edges (runc)', function () {
  this.timeout(20_000);
  let bed: TestBed;
  before(async function () {
    if (process.getuid?.() !== 0 || !has('conmon') || !has('runc')) this.skip();
    await startReactor();
    bed = new TestBed();
  });
  after(async () => {
    bed?.dispose();
    await stopReactor();
  });

  it('ends a conmon that waits for a daemon that died, and only that', async () => {
    const runtime = open('runc', [], bed.stateDir);
    const id = bed.newId();
    const bundle = bed.bundle(id, ['/bin/sleep', '1000']);
    const state = new StateDir(bed.stateDir);
    const files = await state.add(id, {
      version: 1,
      bundle,
      logPath: undefined,
      tty: false,
      cgroupPath: `/${bed.cgroup}/${id}`,
      created: undefined,
    });
    const args = [
      '--api-version',
      '1',
      '-c',
      id,
      '-u',
      id,
      '-r',
      findProgram('runc'),
      '-b',
      bundle,
      '-l',
      'none',
      '--socket-dir-path',
      state.sockets,
    ];
    const half = spawnChild('conmon', [...args, '-P', files.monitorPid, '-p', files.initPid, `--runtime-arg=--root=${state.root}`], {
      stdio: ['ignore', 'ignore', 'ignore', 'pipe', 'pipe'],
      env: { ...process.env, _OCI_SYNCPIPE: '3', _OCI_STARTPIPE: '4' },
    });
    const bystander = spawnChild('/bin/busybox', ['sh', '-c', 'read line; :', id], { stdio: ['pipe', 'ignore', 'ignore'] });
    try {
      await until('conmon to wait', () => pidsWith(id).length >= 2);
      await runtime.delete(op(), id);
      await until('conmon to go', () => half.exitCode !== null || half.signalCode !== null);
      expect(pidsWith(id)).to.deep.equal([bystander.pid]);
    } finally {
      bystander.kill('SIGKILL');
      half.kill('SIGKILL');
    }
    await until('the bystander to go', () => pidsWith(id).length === 0);
    bed.expectGone(id);
  });

  it('removes what a half-written state of the runtime leaves', async () => {
    const runtime = open('runc', [], bed.stateDir);
    const id = bed.newId();
    await bed.started(runtime, id, ['/bin/sleep', '1000']);
    writeFileSync(join(bed.stateDir, 'root', id, 'state.json'), '{"half":');
    writeFileSync(join(bed.stateDir, 'c', id, 'state.json.tmp'), 'x');
    await runtime.delete(op(), id);
    bed.expectGone(id);
  });

  it('deletes by what it finds when its own state is lost', async () => {
    const runtime = open('runc', [], bed.stateDir);
    const id = bed.newId();
    await bed.started(runtime, id, ['/bin/sleep', '1000']);
    writeFileSync(join(bed.stateDir, 'c', id, 'state.json'), 'not json');
    expect(await runtime.list(op())).to.include(id);
    await runtime.delete(op(), id);
    bed.expectGone(id);
  });

  it('cleans up after a daemon that was killed anywhere in a create', async function () {
    this.timeout(60_000);
    const runtime = open('runc', [], bed.stateDir);
    for (let round = 0; round < 12; round++) {
      const id = bed.newId();
      const request = { id, bundle: bed.bundle(id, ['/bin/sleep', '1000']), io: bed.io(id), cgroupParent: '' };
      const daemon = await driver(bed, `await runtime.create(newOp('create'), ${JSON.stringify(request)});`);
      await sleep(round * 4);
      daemon.kill('SIGKILL');
      await once(daemon, 'exit');
      await runtime.delete(op(), id);
      bed.expectGone(id);
    }
  });

  it('starts containers without a process of the runtime, unless it has hooks to run', async () => {
    const verbs = join(bed.dir, 'verbs');
    const wrapper = join(bed.dir, 'runc');
    writeFileSync(wrapper, `#!/bin/sh\necho "$@" >>${verbs}\nexec runc "$@"\n`, { mode: 0o755 });
    const runtime = open(wrapper, [], bed.stateDir);
    const started = async (options: BundleOptions): Promise<string> => {
      writeFileSync(verbs, '');
      const id = bed.newId();
      const created = await bed.started(runtime, id, ['/bin/sh', '-c', 'exit 3'], options);
      expect(await runtime.waitExit(id, created)).to.include({ exitCode: 3 });
      await runtime.delete(op(), id);
      bed.expectGone(id);
      return readFileSync(verbs, 'utf8');
    };
    const plain = await started({});
    expect(plain).to.match(/ create /);
    expect(plain).to.not.match(/ start /);
    expect(await started({ poststart: [{ path: '/bin/true', args: ['true'] }] })).to.match(/ start /);
  });

  it('knows what it started when it was killed anywhere in a start', async function () {
    this.timeout(60_000);
    const runtime = open('runc', [], bed.stateDir);
    const seen = new Set<string>();
    for (let round = 0; round < 12; round++) {
      const id = bed.newId();
      const created = await bed.create(runtime, id, ['/bin/sh', '-c', 'echo here; exec sleep 1000']);
      const daemon = await driver(bed, `await runtime.start(newOp('start'), ${JSON.stringify(id)});`);
      if (round > 0) await sleep(round / 4);
      daemon.kill('SIGKILL');
      await once(daemon, 'exit');
      const outcome = (await runtime.isStarted(op(), id))
        ? 'started'
        : // Nothing has begun, and it can be started still; or its init found nobody there and has ended.
          await runtime.start(op(), id).then(
            () => 'started again',
            () => 'ended',
          );
      seen.add(outcome);
      if (outcome !== 'ended') await until('it to run', () => bed.log(id).includes('here'));
      await runtime.kill(op(), id, SIGKILL, true);
      await runtime.waitExit(id, created);
      await runtime.delete(op(), id);
      bed.expectGone(id);
    }
    console.log(`      12 kills in a start: ${[...seen].sort().join(', ')}`);
  });
});

/** A process that drives runc, killed by the test: it says "go" before it does what it has to. */
async function driver(bed: TestBed, work: string): Promise<ChildProcess> {
  const script = `
    const { createOciRuntime } = await import(${JSON.stringify(join(ROOT, 'src/runtime/oci.ts'))});
    const { newOp } = await import(${JSON.stringify(join(ROOT, 'src/base/op.ts'))});
    const { silentLogger: log } = await import(${JSON.stringify(join(ROOT, 'src/base/log.ts'))});
    const handler = { name: 'test', type: 'oci', path: 'runc', args: [], snapshotter: 'overlay' };
    const runtime = createOciRuntime({ handler, conmonPath: 'conmon', stateDir: ${JSON.stringify(bed.stateDir)}, cgroupDriver: 'cgroupfs', log });
    await runtime.version(newOp('version'));
    process.stdout.write('go');
    ${work}
    setInterval(() => undefined, 1000);`;
  const main = join(bed.dir, 'daemon.mjs');
  writeFileSync(main, script);
  const daemon = spawnChild(process.execPath, [main], { stdio: ['ignore', 'pipe', 'inherit'] });
  await once(daemon.stdout, 'data');
  return daemon;
}
