import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdtempSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect } from 'chai';
import { isAlive, processRef } from '../../src/os/process.ts';
import { Bed, eventually } from '../lib/bed.ts';
import { Cri } from '../lib/cri.ts';
import { Gantry, pluginDir } from '../lib/gantry.ts';

const PROGRAM = fileURLToPath(new URL('../../src/gantry', import.meta.url));

/** `gantry serve` as an operator meets it. */
describe('gantry serve', function () {
  this.timeout(60_000);
  let dir: string;
  beforeEach(() => (dir = mkdtempSync(join(tmpdir(), 'gantry-test-'))));
  afterEach(() => rmSync(dir, { recursive: true, force: true }));

  const refusal = (...args: string[]): string => {
    const { status, stderr } = spawnSync(PROGRAM, ['serve', ...args], { encoding: 'utf8', timeout: 30_000 });
    expect(status, stderr).to.equal(1);
    return stderr;
  };

  it('refuses an unknown and an ill-typed key with file, line and key', () => {
    const path = join(dir, 'config.toml');
    writeFileSync(path, `root = "${dir}/root"\n\n[image]\nmax_concurrent_download = 3\n`);
    expect(refusal('--config', path)).to.match(/config\.toml:4\b.*image\.max_concurrent_download\b/);
    writeFileSync(path, `root = "${dir}/root"\n[streaming]\nport = "any"\n`);
    expect(refusal('--config', path)).to.match(/config\.toml:3\b.*streaming\.port\b/);
    expect(refusal('--log-levle', 'info')).to.include('--log-levle');
  });

  it('refuses a second instance on the same state or root, by the pid of the first', async () => {
    const first = new Gantry({ dir: join(dir, 'a') });
    await first.start();
    try {
      const cni = ['--cni-bin-dir', pluginDir()];
      expect(refusal('--root', join(dir, 'b/root'), '--state', first.state, ...cni)).to.match(
        new RegExp(`another gantry serves from ${first.state}.*process ${first.pid}\\b`),
      );
      expect(refusal('--root', first.root, '--state', join(dir, 'b/state'), ...cni)).to.match(
        new RegExp(`another gantry serves from ${first.root}.*process ${first.pid}\\b`),
      );
      await first.cri.runtime('version', {});
    } finally {
      await first.remove();
    }
  });

  it('keeps its socket and directories to itself, and takes the place of a socket that nobody serves', async () => {
    const gantry = new Gantry({ dir: join(dir, 'a') });
    const modeOf = (path: string): string => (statSync(path).mode & 0o777).toString(8);
    for (let round = 0; round < 2; round++) {
      await gantry.start();
      expect(modeOf(gantry.socket)).to.equal('600');
      expect(modeOf(gantry.root)).to.equal('700');
      expect(modeOf(gantry.state)).to.equal('711');
      await gantry.kill();
      expect(existsSync(gantry.socket)).to.equal(true);
    }
    await gantry.remove();
  });

  it('does not wait, at its end, for those that watch its events', async () => {
    const gantry = new Gantry({ dir: join(dir, 'a'), flags: ['--warm-sandboxes', '0'] });
    await gantry.start();
    using kubelet = new Cri(gantry.socket);
    using _ = kubelet.events(() => undefined);
    await eventually('it watches', async () =>
      /"subscribers":1/.test(JSON.stringify(await gantry.cri.runtime('status', { verbose: true })).replaceAll('\\', '')),
    );
    const startedMs = Date.now();
    await gantry.stop();
    expect(Date.now() - startedMs).to.be.lessThan(4000);
    expect(existsSync(gantry.socket)).to.equal(false);
    await gantry.remove();
  });

  it('tells systemd when it serves', async () => {
    const notify = join(dir, 'notify');
    const script = `import socket,sys; s=socket.socket(socket.AF_UNIX,socket.SOCK_DGRAM); s.bind(sys.argv[1]); s.settimeout(30); print('bound',flush=True); print(s.recv(100).decode(),flush=True)`;
    const listener = spawn('python3', ['-c', script, notify], { stdio: ['ignore', 'pipe', 'inherit'] });
    const said: string[] = [];
    listener.stdout.on('data', (chunk: Buffer) => said.push(chunk.toString()));
    await once(listener.stdout, 'data');
    const gantry = new Gantry({ dir: join(dir, 'a') });
    const gone = once(listener, 'exit');
    await gantry.start({ NOTIFY_SOCKET: notify });
    await gone;
    expect(said.join('')).to.equal('bound\nREADY=1\n');
    await gantry.remove();
  });

  it('leaves containers running at SIGTERM, ends within seconds, and finds them again', async () => {
    const bed = await Bed.make({ subnet: 6 });
    const config = bed.podConfig('stays', { linux: { securityContext: { namespaceOptions: { pid: 'CONTAINER' } } } });
    const pod = await bed.runPod(config);
    const container = await bed.runContainer(pod, config, bed.containerConfig('app', 'while :; do echo tick; sleep 0.1; done'));
    const init = processRef(await bed.pidOf(container));
    if (init === undefined) throw new Error('the container has no process');
    // An open stream of events must not hold it up.
    using _events = bed.cri.events(() => undefined);
    const startedAtMs = Date.now();
    await bed.gantry.stop();
    expect(Date.now() - startedAtMs).to.be.lessThan(10_000);
    expect(isAlive(init)).to.equal(true);
    await bed.gantry.start();
    expect((await bed.status(container)).state).to.equal('CONTAINER_RUNNING');
    expect(await bed.pidOf(container)).to.equal(init.pid);
    await bed.end();
  });

  it('names a socket that cannot be', async () => {
    const long = join(dir, 'x'.repeat(120), 'gantry.sock');
    expect(refusal('--root', join(dir, 'root'), '--state', join(dir, 'state'), '--socket', long, '--cni-bin-dir', pluginDir())).to.include(
      'x'.repeat(120),
    );
  });
});
