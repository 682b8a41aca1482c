import { spawn } from 'node:child_process';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect } from 'chai';
import { execa } from 'execa';
import { Bed, CGROUP, DEMO_IMAGE, eventually } from '../lib/bed.ts';
import { crictlProgram } from '../lib/programs.ts';

const IMAGE_ID = /^sha256:[0-9a-f]{64}$/;
const ID = /^[0-9a-f]{64}$/;

/** Every crictl command that needs no streaming server, in the order in which a pod lives. Each step stands on the one before. */
describe('crictl', function () {
  this.timeout(60_000);
  let bed: Bed;
  let crictlPath: string;
  let pod = '';
  let container = '';
  let imageId = '';
  const events: string[] = [];
  let watching: ReturnType<typeof spawn> | undefined;

  before(async function () {
    crictlPath = crictlProgram(this);
    bed = await Bed.make();
    writeFileSync(
      join(bed.gantry.dir, 'crictl.yaml'),
      `runtime-endpoint: unix://${bed.gantry.socket}\nimage-endpoint: unix://${bed.gantry.socket}\ntimeout: 20\n`,
    );
  });
  after(async () => {
    watching?.kill('SIGTERM');
    await bed?.end();
  });

  const config = (): string => join(bed.gantry.dir, 'crictl.yaml');
  const crictl = async (...args: string[]): Promise<string> => (await execa(crictlPath, ['--config', config(), ...args])).stdout;
  // crictl ends the output of an exec with a line of its own.
  const execSync = async (...args: string[]): Promise<string> => (await crictl(...args)).trimEnd();
  const crictlJson = async (...args: string[]): Promise<Record<string, unknown>> =>
    JSON.parse(await crictl(...args)) as Record<string, unknown>;
  const at = (value: unknown, ...path: Array<string | number>): unknown =>
    path.reduce((each: unknown, key) => (each as Record<string | number, unknown> | undefined)?.[key], value);
  const file = (name: string, content: object): string => {
    const path = join(bed.gantry.dir, name);
    writeFileSync(path, JSON.stringify(content));
    return path;
  };

  it('version and info', async () => {
    expect(await crictl('version'))
      .to.match(/RuntimeName: {2}gantry/i)
      .and.to.match(/RuntimeApiVersion: {2}v1\b/);
    const info = await crictlJson('info');
    const conditions = at(info, 'status', 'conditions') as Array<{ type: string; status: boolean }>;
    expect(conditions.map(({ type, status }) => `${type} ${status}`)).to.include.members(['RuntimeReady true', 'NetworkReady true']);
    expect(at(info, 'runtimeHandlers')).to.be.an('array').that.is.not.empty;
    expect(info).to.have.property('config');
  });

  it('events', async () => {
    watching = spawn(crictlPath, ['--config', config(), 'events', '--output', 'json'], { stdio: ['ignore', 'pipe', 'inherit'] });
    watching.stdout?.setEncoding('utf8').on('data', (text: string) => events.push(...(text.match(/CONTAINER_[A-Z]+_EVENT/g) ?? [])));
    // The subscription has no answer of its own to wait for.
    await new Promise((resolve) => setTimeout(resolve, 500));
  });

  it('rmi and pull, by tag', async () => {
    await crictl('rmi', DEMO_IMAGE);
    expect(await crictl('images', '-q')).not.to.include('sha256');
    expect(await crictl('pull', DEMO_IMAGE)).to.match(/^Image is up to date for sha256:[0-9a-f]{64}$/);
  });

  it('images', async () => {
    const listed = at(await crictlJson('images', '-o', 'json'), 'images') as Array<{
      id: string;
      repoTags: string[];
      repoDigests: string[];
      size: string;
    }>;
    const [image] = listed;
    expect(listed).to.have.length(1);
    expect(image?.repoTags).to.deep.equal([DEMO_IMAGE]);
    expect(image?.repoDigests[0]).to.match(/^images\.test\/demo@sha256:[0-9a-f]{64}$/);
    expect(Number(image?.size)).to.be.greaterThan(100_000);
    expect(image?.id).to.match(IMAGE_ID);
    imageId = image?.id ?? '';
  });

  it('inspecti, by tag, id and digest', async () => {
    const byTag = await crictlJson('inspecti', DEMO_IMAGE);
    expect(at(byTag, 'status', 'id')).to.equal(imageId);
    expect(at(byTag, 'info')).to.be.an('object').that.is.not.empty;
    const digest = at(byTag, 'status', 'repoDigests', 0) as string;
    expect(at(await crictlJson('inspecti', digest), 'status')).to.deep.equal(at(byTag, 'status'));
    expect(at(await crictlJson('inspecti', imageId), 'status')).to.deep.equal(at(byTag, 'status'));
    expect(await crictl('pull', digest)).to.include(imageId);
  });

  it('imagefsinfo', async () => {
    const [fs] = at(await crictlJson('imagefsinfo'), 'status', 'imageFilesystems') as unknown[];
    expect(Number(at(fs, 'usedBytes', 'value'))).to.be.greaterThan(100_000);
    expect(at(fs, 'fsId', 'mountpoint')).to.be.a('string').that.is.not.empty;
  });

  it('runp', async () => {
    const logs = join(bed.gantry.dir, 'logs');
    mkdirSync(logs, { recursive: true });
    const podConfig = {
      metadata: { name: 'web', namespace: 'default', uid: 'uid-web', attempt: 1 },
      hostname: 'web-host',
      log_directory: logs,
      labels: { app: 'web' },
      annotations: { note: 'kept' },
      dns_config: { servers: ['10.1.2.3'], searches: ['example.test'], options: ['ndots:3'] },
      port_mappings: [{ container_port: 80, host_port: 18080, protocol: 0 }],
      linux: { cgroup_parent: `${CGROUP}/web`, security_context: { namespace_options: { pid: 1 } } },
    };
    pod = await crictl('runp', file('pod.json', podConfig));
    expect(pod).to.match(ID);
    const listed = await crictl('pods', '-q', '--state', 'Ready', '--label', 'app=web');
    expect(listed).to.equal(pod);
  });

  it('inspectp', async () => {
    const status = at(await crictlJson('inspectp', pod), 'status');
    expect(at(status, 'state')).to.equal('SANDBOX_READY');
    expect(at(status, 'network', 'ip')).to.match(/^10\.77\.0\.\d+$/);
    expect(at(status, 'metadata')).to.deep.equal({ name: 'web', namespace: 'default', uid: 'uid-web', attempt: 1 });
    expect(at(status, 'labels', 'app')).to.equal('web');
    expect(at(status, 'annotations', 'note')).to.equal('kept');
  });

  it('create and start', async () => {
    const script = 'echo begun; echo oops >&2; httpd -p 80 -h /www; i=0; while :; do echo tick $i; i=$((i+1)); sleep 1; done';
    const containerConfig = {
      metadata: { name: 'app', attempt: 0 },
      image: { image: DEMO_IMAGE },
      command: ['sh', '-c', script],
      envs: [{ key: 'SAID', value: 'by config' }],
      log_path: 'app.log',
      labels: { part: 'app' },
      linux: { resources: { memory_limit_in_bytes: 64 * 1024 * 1024, cpu_shares: 128 } },
    };
    container = await crictl('create', pod, file('app.json', containerConfig), join(bed.gantry.dir, 'pod.json'));
    expect(container).to.match(ID);
    expect(await crictl('ps', '-q', '--state', 'Created')).to.equal(container);
    expect(await crictl('start', container)).to.equal(container);
    expect(await crictl('ps', '-q', '--state', 'Running', '--pod', pod)).to.equal(container);
  });

  it('inspect', async () => {
    const inspected = await crictlJson('inspect', container);
    expect(at(inspected, 'status', 'state')).to.equal('CONTAINER_RUNNING');
    expect(at(inspected, 'status', 'image', 'image')).to.equal(DEMO_IMAGE);
    expect(at(inspected, 'status', 'imageId')).to.equal(imageId);
    expect(at(inspected, 'status', 'imageRef')).to.be.a('string').that.is.not.empty;
    expect(at(inspected, 'status', 'logPath')).to.equal(join(bed.gantry.dir, 'logs', 'app.log'));
    expect(at(inspected, 'info', 'pid'))
      .to.be.a('number')
      .greaterThan(1);
    expect(at(inspected, 'info', 'sandboxID')).to.equal(pod);
  });

  it('exec -s', async () => {
    expect(await execSync('exec', '-s', container, 'sh', '-c', 'hostname; echo $FROM, $SAID')).to.equal('web-host\nimage, by config');
    expect(await execSync('exec', '-s', container, 'cat', '/etc/resolv.conf')).to.equal(
      'search example.test\nnameserver 10.1.2.3\noptions ndots:3',
    );
    const failed = await execa(crictlPath, ['--config', config(), 'exec', '-s', container, 'sh', '-c', 'echo why >&2; exit 7'], {
      reject: false,
    });
    expect(failed.exitCode).to.not.equal(0);
    expect(`${failed.stderr}${failed.stdout}`).to.match(/exit code 7|exited with 7|status 7/i);
    const slow = await execa(crictlPath, ['--config', config(), 'exec', '-s', '--timeout', '1', container, 'sleep', '20'], {
      reject: false,
    });
    expect(slow.stderr).to.match(/DeadlineExceeded|timed? ?out/i);
    expect(slow.durationMs).to.be.lessThan(10_000);
  });

  it('the pod answers on its address and on the host port', async () => {
    const ip = at(await crictlJson('inspectp', pod), 'status', 'network', 'ip') as string;
    expect(await (await fetch(`http://${ip}/index.html`)).text()).to.equal('hello from gantry\n');
    expect(await (await fetch('http://127.0.0.1:18080/index.html')).text()).to.equal('hello from gantry\n');
  });

  it('logs and logs -f', async () => {
    await eventually('the log has its first lines', () => readFileSync(join(bed.gantry.dir, 'logs', 'app.log'), 'utf8').includes('tick 0'));
    const { stdout, stderr } = await execa(crictlPath, ['--config', config(), 'logs', container]);
    expect(stdout).to.match(/^begun\ntick 0/);
    expect(stderr).to.include('oops');
    const follow = spawn(crictlPath, ['--config', config(), 'logs', '-f', '--tail', '1', container], {
      stdio: ['ignore', 'pipe', 'ignore'],
    });
    let followed = '';
    follow.stdout.setEncoding('utf8').on('data', (text: string) => (followed += text));
    try {
      await eventually('three more lines are followed', () => (followed.match(/tick/g) ?? []).length >= 3);
    } finally {
      follow.kill('SIGTERM');
    }
  });

  it('stats and statsp', async () => {
    const containerStats = (): Promise<unknown> => crictlJson('stats', '-o', 'json', container).then((all) => at(all, 'stats', 0));
    await eventually(
      'the container has used memory',
      async () => Number(at(await containerStats(), 'memory', 'workingSetBytes', 'value')) > 0,
    );
    expect(at(await containerStats(), 'attributes', 'id')).to.equal(container);
    expect(Number(at(await containerStats(), 'cpu', 'usageCoreNanoSeconds', 'value'))).to.be.greaterThan(0);
    const podStats = at(await crictlJson('statsp', '-o', 'json', pod), 'stats', 0);
    expect(at(podStats, 'attributes', 'id')).to.equal(pod);
    expect(Number(at(podStats, 'linux', 'memory', 'workingSetBytes', 'value'))).to.be.greaterThan(0);
    expect(at(podStats, 'linux', 'network', 'defaultInterface', 'name')).to.equal('eth0');
  });

  it('metricdescs and metricsp', async () => {
    const names = at(await crictlJson('metricdescs'), 'descriptors') as Array<{ name: string }>;
    expect(names.map(({ name }) => name)).to.include.members([
      'container_cpu_usage_seconds_total',
      'container_network_receive_bytes_total',
    ]);
    const pods = at(await crictlJson('metricsp'), 'podMetrics') as Array<{
      podSandboxId: string;
      containerMetrics: Array<{ containerId: string }>;
    }>;
    expect(pods.map(({ podSandboxId }) => podSandboxId)).to.deep.equal([pod]);
    expect(pods[0]?.containerMetrics.map(({ containerId }) => containerId)).to.deep.equal([container]);
  });

  it('runtime-config and update-runtime-config', async () => {
    expect(await crictl('runtime-config')).to.match(/cgroupfs/i);
    await crictl('update-runtime-config', '--pod-cidr', '10.244.0.0/24');
  });

  it('update', async () => {
    await crictl('update', '--memory', String(96 * 1024 * 1024), '--cpu-share', '256', container);
    const resources = at(await crictlJson('inspect', container), 'status', 'resources', 'linux');
    expect(Number(at(resources, 'memoryLimitInBytes'))).to.equal(96 * 1024 * 1024);
    expect(Number(at(resources, 'cpuShares'))).to.equal(256);
  });

  it('stop: the container has exited and says so', async () => {
    expect(await crictl('stop', '--timeout', '1', container)).to.equal(container);
    const status = at(await crictlJson('inspect', container), 'status');
    expect(at(status, 'state')).to.equal('CONTAINER_EXITED');
    expect(at(status, 'exitCode')).to.equal(137);
    expect(at(status, 'finishedAt')).to.match(/^20/);
    expect(await crictl('stop', container)).to.equal(container);
  });

  it('rm', async () => {
    expect(await crictl('rm', container)).to.equal(container);
    expect(await crictl('ps', '-aq')).to.equal('');
    const gone = await execa(crictlPath, ['--config', config(), 'inspect', container], { reject: false });
    expect(gone.stderr).to.match(/NotFound|not found/i);
  });

  it('stopp and rmp', async () => {
    expect(await crictl('stopp', pod)).to.include(pod);
    expect(at(await crictlJson('inspectp', pod), 'status', 'state')).to.equal('SANDBOX_NOTREADY');
    expect(await crictl('stopp', pod)).to.include(pod);
    expect(await crictl('rmp', pod)).to.include(pod);
    expect(await crictl('pods', '-q')).to.equal('');
  });

  it('events saw the pod and the container come and go', async () => {
    const kinds = ['CREATED', 'STARTED', 'STOPPED', 'DELETED'].map((kind) => `CONTAINER_${kind}_EVENT`);
    await eventually(`events: ${events.join(' ')}`, () => kinds.every((kind) => events.filter((each) => each === kind).length >= 2));
  });

  it('rmi', async () => {
    await crictl('rmi', imageId);
    expect(await crictl('images', '-q')).to.equal('');
  });
});
