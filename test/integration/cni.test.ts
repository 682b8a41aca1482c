import { expect } from 'chai';
import { execFileSync, spawn } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, readlinkSync, rmSync, writeFileSync } from 'node:fs';
import { createSocket } from 'node:dgram';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { PodSandboxConfig } from '../../src/gen/cri/runtime/v1/PodSandboxConfig.ts';
import { Bed, eventually } from '../lib/bed.ts';
import { addressesOfPods, allAddresses, ofPods, warm } from '../lib/warm.ts';
import { RecordingPlugins } from '../lib/recording-plugin.ts';

const SUBNET = 22;
const GRACE_S = 3;
const BRIDGE = `gantry${SUBNET}`;
const PRIVATE_PID = { namespaceOptions: { pid: 'CONTAINER' as const } };
const ON_HOST = { linux: { securityContext: { namespaceOptions: { network: 'NODE' as const, pid: 'CONTAINER' as const } } } };

type Failure = Error & { code: number; details: string };

/** Pod networks by the real CNI plugins, and by plugins that write down what they are given. */
describe('cni', function () {
  this.timeout(60_000);
  let dir: string;
  let bed: Bed;
  let plugins: RecordingPlugins;

  before(async () => {
    dir = mkdtempSync(join(tmpdir(), 'gantry-cni-'));
    plugins = new RecordingPlugins(dir, ['recorder', 'other']);
    const config = join(dir, 'config.toml');
    writeFileSync(config, `cni.status_grace_seconds = ${GRACE_S}\n`);
    bed = await Bed.make({ subnet: SUBNET, flags: ['--config', config, '--cni-bin-dir', plugins.binDir] });
  });
  after(async () => {
    await bed.end();
    rmSync(dir, { recursive: true });
  });
  afterEach(async () => {
    await bed.gantry.removePods();
    for (const type of ['recorder', 'other'])
      for (const command of ['ADD', 'DEL', 'STATUS', 'GC']) plugins.answer(type, command, undefined);
    plugins.forget();
    expect(addresses()).to.deep.equal([]);
  });

  const confDir = (): string => join(bed.gantry.dir, 'net.d');
  /** The directory holds these files and no others. */
  const conf = (files: Readonly<Record<string, unknown>>): void => {
    for (const name of readdirSync(confDir())) if (!(name in files)) rmSync(join(confDir(), name));
    for (const [name, value] of Object.entries(files))
      writeFileSync(join(confDir(), name), typeof value === 'string' ? value : JSON.stringify(value));
  };
  const bridge = (ranges: readonly string[] = [`10.77.${SUBNET}.0/24`]): object => ({
    type: 'bridge',
    bridge: BRIDGE,
    isGateway: true,
    ipMasq: true,
    hairpinMode: true,
    ipam: {
      type: 'host-local',
      dataDir: bed.gantry.cniDataDir,
      ranges: ranges.map((subnet) => [{ subnet }]),
      routes: [{ dst: '0.0.0.0/0' }],
    },
  });
  const portmap = { type: 'portmap', capabilities: { portMappings: true } };
  const list = (name: string, chain: readonly object[], change: object = {}): object => ({
    cniVersion: '1.0.0',
    name,
    plugins: chain,
    ...change,
  });
  /** Addresses that host-local holds for pods. */
  const addresses = (): string[] => addressesOfPods(bed.gantry);
  const config = (name: string, change: PodSandboxConfig = {}): PodSandboxConfig =>
    bed.podConfig(name, { ...change, linux: { ...change.linux, securityContext: change.linux?.securityContext ?? PRIVATE_PID } });
  const run = (name: string, change: PodSandboxConfig = {}): Promise<string> => bed.runPod(config(name, change));
  const refused = async (name: string): Promise<Failure> => {
    try {
      await run(name);
    } catch (error) {
      return error as Failure;
    }
    throw new Error(`${name} runs`);
  };
  const networkOf = async (podSandboxId: string) => {
    const { status } = await bed.cri.runtime('podSandboxStatus', { podSandboxId });
    return { ip: status?.network?.ip, additionalIps: (status?.network?.additionalIps ?? []).map(({ ip }: { ip: string }) => ip) };
  };
  const exec = async (containerId: string, cmd: string[]): Promise<string> => {
    const { stdout, stderr, exitCode } = await bed.cri.runtime('execSync', { containerId, cmd, timeout: '20' });
    if (exitCode !== 0) throw new Error(`${cmd.join(' ')}: ${exitCode} ${Buffer.from(stderr).toString()}`);
    return Buffer.from(stdout).toString();
  };
  const ready = async () => {
    const { status } = await bed.cri.runtime('status', {});
    const found = status?.conditions.find(({ type }: { type: string }) => type === 'NetworkReady');
    return { status: found?.status, reason: found?.reason, message: found?.message };
  };
  const rules = (): string[] =>
    ['iptables-save', 'ip6tables-save']
      .flatMap((program) => execFileSync(program, { encoding: 'utf8' }).split('\n'))
      .filter((line) => /^-|^:/.test(line))
      .map((line) => line.replace(/\[\d+:\d+\]/, ''))
      .sort();
  const links = (): string[] => ofPods(bed.gantry, () => readdirSync('/sys/class/net').filter((name) => name.startsWith('veth')));
  /** Without a configuration there is nothing to keep warm. */
  const drained = async (): Promise<void> => {
    conf({});
    await eventually('the warm sandboxes are given back', () => allAddresses(bed.gantry).length === 0 && warm(bed.gantry).ids.size === 0);
  };
  const httpd = 'httpd -f -p 80 -h /www';

  it('two pods reach each other over IPv4 and IPv6 through the whole chain; addresses, lo and sysctls are as configured', async () => {
    const chain = [
      bridge([`10.77.${SUBNET}.0/24`, 'fd77:22::/64']),
      portmap,
      { type: 'firewall' },
      { type: 'bandwidth', capabilities: { bandwidth: true } },
      { type: 'tuning', sysctl: { 'net.core.somaxconn': '500' } },
      { type: 'loopback' },
    ];
    conf({ '10-chain.conflist': list('chain', chain) });
    const annotations = { 'kubernetes.io/ingress-bandwidth': '8M', 'kubernetes.io/egress-bandwidth': '16M' };
    // One after the other: the first run of the firewall plugin on a machine makes chains, and fails when another does that meanwhile.
    const [server, client] = [await run('server', { annotations }), await run('client')];
    const [at, from] = [await networkOf(server), await networkOf(client)];
    expect(at.ip).to.match(new RegExp(`^10\\.77\\.${SUBNET}\\.`));
    expect(at.additionalIps).to.have.length(1);
    expect(at.additionalIps[0]).to.match(/^fd77:22::/);
    expect(from.ip).to.not.equal(at.ip);
    await bed.runContainer(server, config('server'), bed.containerConfig('web', httpd));
    const container = await bed.runContainer(client, config('client'), bed.containerConfig('c', 'sleep 1000'));
    for (const host of [at.ip, at.additionalIps[0]])
      expect(await exec(container, ['sh', '-c', `printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 5 ${host} 80`])).to.match(
        /\nhello from gantry\n$/,
      );
    const lo = await exec(container, ['ip', 'addr', 'show', 'lo']);
    expect(lo).to.contain('LOOPBACK,UP').and.to.contain('127.0.0.1/8').and.to.contain('::1/128');
    const eth0 = await exec(container, ['ip', 'addr', 'show', 'eth0']);
    expect(eth0).to.contain(`${from.ip}/24`).and.to.contain(`${from.additionalIps[0]}/64`);
    expect(await exec(container, ['cat', '/proc/sys/net/core/somaxconn'])).to.equal('500\n');
    const shaped = execFileSync('tc', ['qdisc', 'show'], { encoding: 'utf8' });
    expect(shaped).to.contain('rate 8Mbit').and.to.contain('rate 16Mbit');
    const before = addresses().length;
    expect(before).to.equal(4);
    await bed.gantry.removePods();
    expect(links()).to.deep.equal([]);
    expect(execFileSync('tc', ['qdisc', 'show'], { encoding: 'utf8' })).to.not.contain('tbf');
  });

  it('port mappings lead into the pod from every address, or from the one that was asked for, and are gone after it (R27)', async () => {
    conf({ '10-ports.conflist': list('ports', [bridge(), portmap]) });
    const mappings = (hostIp: string, base: number) => ({
      portMappings: [
        { protocol: 'TCP' as const, containerPort: 80, hostPort: base, hostIp },
        { protocol: 'UDP' as const, containerPort: 5353, hostPort: base + 1, hostIp },
        { protocol: 'TCP' as const, containerPort: 81, hostPort: 0, hostIp },
      ],
    });
    const gateway = `10.77.${SUBNET}.1`;
    // The plugin makes chains of its own with the first mapping and keeps them.
    await run('first', mappings('', 18000));
    await bed.gantry.removePods();
    await drained();
    const before = rules();
    conf({ '10-ports.conflist': list('ports', [bridge(), portmap]) });
    const [any, one] = [await run('any', mappings('', 18080)), await run('one', mappings('127.0.0.1', 18090))];
    await bed.runContainer(any, config('any'), bed.containerConfig('web', httpd));
    await bed.runContainer(one, config('one'), bed.containerConfig('web', httpd));
    const get = async (address: string): Promise<string> => {
      try {
        return await (await fetch(`http://${address}/`, { signal: AbortSignal.timeout(1000) })).text();
      } catch {
        return 'none';
      }
    };
    for (const address of ['127.0.0.1:18080', `${gateway}:18080`, '127.0.0.1:18090'])
      await eventually(`${address} answers`, async () => (await get(address)) === 'hello from gantry\n');
    expect(await get(`${gateway}:18090`)).to.equal('none');
    expect(await datagram(join(bed.gantry.state, 'pods', any, 'ns', 'net'), 5353, 18081)).to.equal('datagram');
    expect(rules().join('\n')).to.contain('18080').and.to.contain('18081').and.to.contain('18090').and.to.not.contain('dport 0 ');
    await bed.gantry.removePods();
    expect(await get('127.0.0.1:18080')).to.equal('none');
    await drained();
    expect(rules()).to.deep.equal(before);
  });

  it('plugins are given the arguments of the pod, and those capabilities that they declare', async () => {
    const all = { portMappings: true, bandwidth: true, dns: true, cgroupPath: true, ips: true, mac: true, aliases: true };
    conf({
      '10-given.conflist': list('given', [bridge(), { type: 'recorder' }, { type: 'other', capabilities: all, mine: { deep: [1] } }]),
    });
    const pod = await run('given', {
      metadata: { name: 'given', namespace: 'spaces', uid: 'uid-7', attempt: 3 },
      portMappings: [
        { protocol: 'TCP', containerPort: 80, hostPort: 18100, hostIp: '' },
        { protocol: 'SCTP', containerPort: 90, hostPort: 18101, hostIp: '127.0.0.1' },
      ],
      dnsConfig: { servers: ['10.0.0.10'], searches: ['svc.test'], options: ['ndots:5'] },
      annotations: { 'kubernetes.io/ingress-bandwidth': '1M' },
    });
    const [plain, able] = plugins.calls({ command: 'ADD' });
    expect(plain?.env).to.deep.equal({
      CNI_COMMAND: 'ADD',
      CNI_CONTAINERID: pod,
      CNI_NETNS: join(bed.gantry.state, 'pods', pod, 'ns', 'net'),
      CNI_IFNAME: 'eth0',
      CNI_ARGS: `IgnoreUnknown=1;K8S_POD_NAMESPACE=spaces;K8S_POD_NAME=given;K8S_POD_INFRA_CONTAINER_ID=${pod};K8S_POD_UID=uid-7`,
      CNI_PATH: plain?.env['CNI_PATH'],
    });
    expect(plain?.env['CNI_PATH']?.split(':')).to.include(plugins.binDir);
    expect(plain?.names.filter((name) => !name.startsWith('CNI_'))).to.deep.equal(['PATH']);
    expect(plain?.conf).to.include({ cniVersion: '1.0.0', name: 'given', type: 'recorder' });
    expect(plain?.conf).to.not.have.any.keys('runtimeConfig', 'capabilities');
    expect((plain?.conf['prevResult'] as { ips: unknown[] }).ips).to.have.length(1);
    expect(able?.conf).to.deep.include({ mine: { deep: [1] }, prevResult: plain?.conf['prevResult'] });
    expect(able?.conf).to.not.have.property('capabilities');
    expect(able?.conf['runtimeConfig']).to.deep.equal({
      portMappings: [
        { protocol: 'tcp', containerPort: 80, hostPort: 18100, hostIP: '' },
        { protocol: 'sctp', containerPort: 90, hostPort: 18101, hostIP: '127.0.0.1' },
      ],
      bandwidth: { ingressRate: 1_000_000, ingressBurst: 1_000_000 },
      dns: { servers: ['10.0.0.10'], searches: ['svc.test'], options: ['ndots:5'] },
      cgroupPath: config('given').linux?.cgroupParent,
    });
    await bed.gantry.removePods();
    const dels = plugins.calls({ command: 'DEL' });
    expect(dels.map(({ type }) => type)).to.deep.equal(['other', 'recorder']);
    for (const { env, conf: given } of dels) {
      expect(env).to.include({ CNI_CONTAINERID: pod, CNI_ARGS: plain?.env['CNI_ARGS'], CNI_NETNS: plain?.env['CNI_NETNS'] });
      expect((given['prevResult'] as { ips: unknown[] }).ips).to.have.length(1);
    }
    expect(dels[0]?.conf['runtimeConfig']).to.deep.equal(able?.conf['runtimeConfig']);
  });

  it('the first valid list in lexical order is used, a change is noticed without a restart, and DEL goes by the list that ADD used', async () => {
    conf({
      '20-second.conflist': list('second', [bridge(), { type: 'other' }]),
      '10-first.conflist': list('first', [bridge(), { type: 'recorder', generation: 1 }]),
      '05-broken.conflist': '{ "cniVersion": ',
      '01-not-a-list.txt': list('text', [{ type: 'other' }]),
    });
    const pod = await run('first');
    expect(plugins.calls().map(({ type }) => type)).to.deep.equal(['recorder']);
    expect(readFileSync(bed.gantry.logPath, 'utf8')).to.match(/passed over.*05-broken\.conflist/);
    expect(await ready()).to.deep.equal({ status: true, reason: '', message: '' });
    conf({ '20-second.conflist': list('second', [bridge(), { type: 'other' }]) });
    await run('second');
    expect(plugins.calls({ command: 'ADD' }).map(({ type, conf: { name } }) => `${type} ${name}`)).to.deep.equal([
      'recorder first',
      'other second',
    ]);
    await bed.gantry.kill();
    conf({});
    await bed.gantry.start();
    plugins.forget();
    await bed.cri.runtime('stopPodSandbox', { podSandboxId: pod });
    const [del] = plugins.calls({ command: 'DEL' });
    expect(del?.conf).to.include({ name: 'first', generation: 1 });
    expect(del?.conf).to.have.property('prevResult');
    expect(addresses()).to.have.length(1);
  });

  it('without a configuration: NetworkReady is false and says why, pods fail clearly, those of the host network run', async () => {
    conf({});
    await eventually('the network is not ready', async () => (await ready()).status === false);
    expect(await ready()).to.deep.equal({
      status: false,
      reason: 'NetworkPluginNotReady',
      message: `cni config uninitialized: no configuration in ${confDir()}`,
    });
    const error = await refused('nothing');
    expect(error.code).to.equal(9);
    expect(error.details).to.contain(`no configuration in ${confDir()}`);
    conf({ '10-broken.conflist': '[]' });
    await eventually('the reason names the file', async () => (await ready()).message?.includes('10-broken.conflist: ') === true);
    expect((await refused('nothing')).details).to.contain('10-broken.conflist: ');
    const pod = await run('host', ON_HOST);
    expect(await networkOf(pod)).to.deep.equal({ ip: '', additionalIps: [] });
    const container = await bed.runContainer(pod, config('host', ON_HOST), bed.containerConfig('c', 'sleep 1000', ON_HOST));
    expect(readlinkSync(`/proc/${await bed.pidOf(container)}/ns/net`)).to.equal(readlinkSync('/proc/self/ns/net'));
    expect((await bed.cri.runtime('listPodSandbox', {})).items).to.have.length(1);
    conf({ '10-good.conflist': list('good', [bridge()]) });
    await eventually('the network is ready again', async () => (await ready()).status === true);
    await run('good');
    expect(plugins.calls()).to.deep.equal([]);
  });

  it('a failing plugin is told by name, in its own words and with its code, and leaves nothing', async () => {
    conf({ '10-fails.conflist': list('fails', [bridge(), portmap, { type: 'recorder' }]) });
    const said = { cniVersion: '1.0.0', code: 107, msg: 'the switch is full', details: 'port 7 of 7' };
    const cases: Array<[Parameters<RecordingPlugins['answer']>[2], RegExp, number]> = [
      [{ exitCode: 1, stdout: JSON.stringify(said) }, /cni plugin "recorder" add: the switch is full: port 7 of 7 \(code 107\)/, 13],
      [{ exitCode: 1, stdout: JSON.stringify({ ...said, code: 11 }) }, /the switch is full: port 7 of 7 \(code 11\)/, 14],
      [{ exitCode: 3, stderr: 'panic: no such thing\n' }, /cni plugin "recorder" add: panic: no such thing/, 13],
      [{ exitCode: 4, stdout: '' }, /cni plugin "recorder" add: it ended with 4/, 13],
      [{ stdout: 'Warning: <html>' }, /cni plugin "recorder" add: its result is not JSON: Warning: <html>/, 13],
      [{ stdout: '' }, /cni plugin "recorder" add: it printed no result/, 13],
    ];
    for (const [answer, words, code] of cases) {
      plugins.answer('recorder', 'ADD', answer);
      plugins.forget();
      const error = await refused('fails');
      expect(error.details).to.match(words);
      expect(error.code).to.equal(code);
      // The failed attachment is undone at once, and once more with the pod.
      expect(plugins.calls({ command: 'DEL' }).length).to.be.within(1, 2);
      expect(addresses()).to.deep.equal([]);
      expect(links()).to.deep.equal([]);
      expect((await bed.cri.runtime('listPodSandbox', {})).items).to.deep.equal([]);
    }
    conf({ '10-missing.conflist': list('missing', [bridge(), { type: 'absent' }]) });
    const error = await refused('missing');
    expect(error.code).to.equal(9);
    expect(error.details).to.contain(`cni plugin "absent": not found in `).and.to.contain(plugins.binDir);
    await eventually('Status says so too', async () => (await ready()).message?.includes('cni plugin "absent": not found') === true);
  });

  it('a DEL that fails keeps the pod listed until it succeeds (R3)', async () => {
    conf({ '10-sticky.conflist': list('sticky', [bridge(), { type: 'recorder' }]) });
    const podSandboxId = await run('sticky');
    plugins.answer('recorder', 'DEL', { exitCode: 1, stdout: JSON.stringify({ code: 100, msg: 'not now' }) });
    const error = await bed.cri.runtime('stopPodSandbox', { podSandboxId }).then(
      () => undefined,
      (failure: unknown) => failure as Failure,
    );
    expect(error?.details).to.contain('cni plugin "recorder" del: not now (code 100)');
    // The others were asked all the same.
    expect(addresses()).to.deep.equal([]);
    expect((await bed.cri.runtime('listPodSandbox', {})).items.map(({ id }: { id: string }) => id)).to.deep.equal([podSandboxId]);
    plugins.answer('recorder', 'DEL', undefined);
    await bed.cri.runtime('stopPodSandbox', { podSandboxId });
    await bed.cri.runtime('removePodSandbox', { podSandboxId });
    expect((await bed.cri.runtime('listPodSandbox', {})).items).to.deep.equal([]);
  });

  it('cniVersion 1.1.0: GC names the pods at the start; STATUS counts after its grace, and NetworkReady does not flap (R29)', async () => {
    const chain = [{ type: 'recorder' }, { type: 'other' }];
    conf({ '10-new.conflist': list('new', chain, { cniVersion: '1.1.0' }) });
    const pod = await run('new');
    expect(await networkOf(pod)).to.deep.equal({ ip: '192.0.2.7', additionalIps: [] });
    await bed.gantry.kill();
    plugins.forget();
    // A plugin that is older than the verbs has nothing against it.
    plugins.answer('other', 'STATUS', { exitCode: 1, stdout: JSON.stringify({ code: 4, msg: 'unknown CNI_COMMAND: STATUS' }) });
    await bed.gantry.start();
    const collected = plugins.calls({ command: 'GC' });
    expect(collected.map(({ type }) => type)).to.deep.equal(['recorder', 'other']);
    for (const { env, conf: given } of collected) {
      expect(given).to.deep.include({
        name: 'new',
        cniVersion: '1.1.0',
        'cni.dev/valid-attachments': [{ containerID: pod, ifname: 'eth0' }],
      });
      expect(Object.keys(env).sort()).to.deep.equal(['CNI_COMMAND', 'CNI_PATH']);
    }
    expect(plugins.calls({ command: 'STATUS' }).length).to.be.greaterThan(0);
    expect(await ready()).to.include({ status: true });

    plugins.answer('recorder', 'STATUS', { exitCode: 1, stdout: JSON.stringify({ code: 50, msg: 'no route to the store' }) });
    const asked = plugins.calls({ command: 'STATUS' }).length;
    // A list that has changed is asked soon, not at its next turn.
    conf({ '10-new.conflist': list('new', chain, { cniVersion: '1.1.0', disableCheck: true }) });
    await eventually('the plugin has been asked', () => plugins.calls({ command: 'STATUS' }).length > asked);
    const failedMs = Date.now();
    while (Date.now() - failedMs < GRACE_S * 500) {
      expect(await ready()).to.include({ status: true });
      await sleep(100);
    }
    await eventually('it counts', async () => (await ready()).status === false);
    expect(Date.now() - failedMs).to.be.within(GRACE_S * 500, (GRACE_S + 10) * 1000);
    expect(await ready()).to.deep.equal({
      status: false,
      reason: 'NetworkPluginNotReady',
      message: 'cni plugin "recorder" status: no route to the store (code 50)',
    });
    plugins.answer('recorder', 'STATUS', undefined);
    await eventually('it is well again', async () => (await ready()).status === true);
  });
});

/** Sends datagrams to `hostPort` on loopback until one arrives at `port` in the network namespace; resolves to what it says. */
async function datagram(netns: string, port: number, hostPort: number): Promise<string> {
  const listen = `require('dgram').createSocket('udp4').on('message', (text) => { console.log(String(text)); process.exit(); }).bind(${port});`;
  const listener = spawn('nsenter', [`--net=${netns}`, process.execPath, '-e', listen], { stdio: ['ignore', 'pipe', 'inherit'] });
  const socket = createSocket('udp4');
  const timer = setInterval(() => socket.send('datagram', hostPort, '127.0.0.1'), 50);
  const late = setTimeout(() => listener.kill('SIGKILL'), 10_000);
  try {
    let heard = '';
    for await (const chunk of listener.stdout) heard += String(chunk);
    return heard.trim();
  } finally {
    clearInterval(timer);
    clearTimeout(late);
    socket.close();
  }
}
