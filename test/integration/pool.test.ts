import { expect } from 'chai';
import { execFileSync } from 'node:child_process';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { PodSandboxConfig } from '../../src/gen/cri/runtime/v1/PodSandboxConfig.ts';
import { mountsUnder } from '../../src/os/mount.ts';
import type { WarmStatus } from '../../src/sandbox/pool.ts';
import { Bed, eventually } from '../lib/bed.ts';
import type { Faulty } from '../lib/faults.ts';
import { failure, faultyPlugin, remains } from '../lib/faults.ts';
import { size } from '../lib/size.ts';
import { addressesOfPods, allAddresses, warm } from '../lib/warm.ts';

const KILLS = size('POOL_KILLS', 12, 60);
const SUBNET = 33;
const LIMIT = 3;
const OF_THE_POOL = `case $CNI_ARGS in *K8S_POD_UID=) true ;; *) false ;; esac`;

/** Warm sandboxes with the real plugins: pods that take one are as any other, and nothing of the rest stays (DESIGN 3.10). */
describe('warm sandboxes', function () {
  this.timeout(120_000);
  let dir: string;
  let bridge: Faulty;
  let bed: Bed;
  let network: string;

  before(async () => {
    dir = mkdtempSync(join(tmpdir(), 'plugins-'));
    bridge = faultyPlugin(dir, 'bridge');
    bed = await Bed.make({ subnet: SUBNET, pluginDir: dir, config: `sandbox.warm = ${LIMIT}\nsandbox.warm_burst = ${LIMIT}\n` });
  });
  beforeEach(async () => {
    conf('pool');
    await filled();
  });
  afterEach('leaves nothing', async () => {
    bridge.heal();
    await bed.gantry.removePods();
    await eventually('nothing is left of pods', () => remains(bed.gantry).length === 0).catch((error: unknown) => {
      throw new Error(remains(bed.gantry).join('\n'), { cause: error });
    });
  });
  after(async () => {
    await bed.end();
    rmSync(dir, { recursive: true });
  });

  function conf(name: string, change: { last?: string; chained?: readonly object[] } = {}): void {
    const { last = '254', chained = [{ type: 'portmap', capabilities: { portMappings: true } }, { type: 'firewall' }] } = change;
    const ipam = {
      type: 'host-local',
      dataDir: bed.gantry.cniDataDir,
      ranges: [[{ subnet: `10.77.${SUBNET}.0/24`, rangeEnd: `10.77.${SUBNET}.${last}` }]],
      routes: [{ dst: '0.0.0.0/0' }],
    };
    const first = { type: 'bridge', bridge: bed.gantry.bridge, isGateway: true, ipMasq: true, ipam };
    network = name;
    const path = join(bed.gantry.dir, 'net.d', '10-gantry.conflist');
    writeFileSync(path, JSON.stringify({ cniVersion: '1.0.0', name, plugins: [first, ...chained] }));
  }
  const status = async (): Promise<WarmStatus> => {
    const { info } = await bed.cri.runtime('status', { verbose: true });
    return JSON.parse(String(info['warm'])) as WarmStatus;
  };
  const filled = (): Promise<void> =>
    eventually(
      'the pool is filled',
      async () => {
        const { ready, unsettled } = await status();
        const { ids } = warm(bed.gantry);
        const isOfNetwork = allAddresses(bed.gantry).every(({ name, id }) => !ids.has(id) || name.startsWith(`${network}/`));
        return ready === LIMIT && unsettled === 0 && isOfNetwork;
      },
      20_000,
    );
  const config = (name: string, change: PodSandboxConfig = {}): PodSandboxConfig => {
    const securityContext = { namespaceOptions: { pid: 'CONTAINER' as const, ...change.linux?.securityContext?.namespaceOptions } };
    return bed.podConfig(name, { ...change, linux: { ...change.linux, securityContext } });
  };
  const run = (name: string, change?: PodSandboxConfig): Promise<string> => bed.runPod(config(name, change));
  const ipOf = async (podSandboxId: string): Promise<string> =>
    (await bed.cri.runtime('podSandboxStatus', { podSandboxId })).status?.network?.ip ?? '';
  const addressOf = (id: string): string[] =>
    allAddresses(bed.gantry).flatMap((each) => (each.id === id ? [each.name.split('/').at(-1) ?? ''] : []));
  const exec = async (containerId: string, script: string): Promise<string> => {
    const { stdout, stderr, exitCode } = await bed.cri.runtime('execSync', { containerId, cmd: ['sh', '-c', script], timeout: '20' });
    expect(exitCode, Buffer.from(stderr).toString()).to.equal(0);
    return Buffer.from(stdout).toString();
  };
  const links = (): string[] => readdirSync('/sys/class/net').filter((name) => name.startsWith('veth'));
  const hostPort = (n: number): PodSandboxConfig => ({
    portMappings: [{ protocol: 'TCP', containerPort: 80, hostPort: 18300 + n, hostIp: '' }],
  });
  /** Everything that there can be, whoever's it is. */
  const anything = (): string[] => [
    ...allAddresses(bed.gantry).map(({ name }) => name),
    ...links(),
    ...mountsUnder(bed.gantry.state),
    ...readdirSync(join(bed.gantry.state, 'pods')),
    ...readdirSync(join(bed.gantry.root, 'sandboxes')),
    ...execFileSync('iptables-save', { encoding: 'utf8' })
      .split('\n')
      // Its own: a state directory that another suite has wiped leaves some, as a bridge plugin without a namespace to look at takes none away.
      .filter((line) => /^-A.*id: \\?"/.test(line) && line.includes(`10.77.${SUBNET}.`)),
  ];

  it('a pod takes one: address, hostname, DNS, sysctls and shm are its own, and it is reached', async () => {
    const [before, { ids }] = [await status(), warm(bed.gantry)];
    const change = (n: number): PodSandboxConfig => ({
      dnsConfig: { servers: [`10.0.0.${n}`], searches: [], options: [] },
      linux: { sysctls: { 'kernel.shm_rmid_forced': String(n), 'fs.mqueue.msg_max': String(20 + n) } },
    });
    const pods = [await run('zero', change(0)), await run('one', change(1))];
    expect([...ids]).to.include.members(pods);
    expect((await status()).taken - before.taken).to.equal(2);
    const containers: string[] = [];
    for (const [n, pod] of pods.entries()) {
      const name = ['zero', 'one'][n] ?? '';
      const command = `echo ${name} > /tmp/index.html; httpd -f -p 80 -h /tmp`;
      const container = await bed.runContainer(pod, config(name, change(n)), bed.containerConfig('web', command));
      containers.push(container);
      expect(await exec(container, 'hostname; cat /etc/hostname')).to.equal(`${name}\n${name}\n`);
      expect(await exec(container, 'cat /proc/sys/kernel/shm_rmid_forced /proc/sys/fs/mqueue/msg_max')).to.equal(`${n}\n${20 + n}\n`);
      expect(await exec(container, 'cat /etc/resolv.conf')).to.equal(`nameserver 10.0.0.${n}\n`);
      expect(await exec(container, 'grep " /dev/shm " /proc/mounts')).to.contain('size=65536k');
      expect(addressOf(pod)).to.deep.equal([await ipOf(pod)]);
      expect(await exec(container, 'ip addr show eth0; ip addr show lo'))
        .to.contain(`${await ipOf(pod)}/24`)
        .and.to.contain('127.0.0.1/8');
    }
    const [zero = '', one = ''] = containers;
    const get = async (pod = ''): Promise<string> => `printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 5 ${await ipOf(pod)} 80 | tail -1`;
    expect(await exec(zero, await get(pods[1]))).to.equal('one\n');
    expect(await exec(one, await get(pods[0]))).to.equal('zero\n');
    expect((await bed.cri.runtime('listPodSandbox', {})).items).to.have.length(2);
    await filled();
  });

  it('pods of which the network has to know more take the plain path', async () => {
    const { ids } = warm(bed.gantry);
    const changes: Array<[string, PodSandboxConfig]> = [
      ['port', hostPort(0)],
      ['bandwidth', { annotations: { 'kubernetes.io/egress-bandwidth': '10M' } }],
      ['sysctl', { linux: { sysctls: { 'net.ipv4.ip_unprivileged_port_start': '1000' } } }],
      ['ipc', { linux: { securityContext: { namespaceOptions: { ipc: 'NODE' } } } }],
      ['host', { linux: { securityContext: { namespaceOptions: { network: 'NODE' } } } }],
    ];
    for (const [name, change] of changes) {
      const pod = await run(name, change);
      expect([...ids], name).to.not.include(pod);
      expect(addressOf(pod), name).to.have.length(name === 'host' ? 0 : 1);
    }
    expect([...warm(bed.gantry).ids].sort()).to.deep.equal([...ids].sort());
  });

  it('an invalid sysctl is refused as on the plain path, and what was taken is given back', async () => {
    const error = await failure(run('invalid', { linux: { sysctls: { 'kernel.shmmax': 'many' } } }));
    expect(error.code).to.equal(3);
    expect(error.details).to.contain('config.linux.sysctls[kernel.shmmax]');
    expect(addressesOfPods(bed.gantry)).to.deep.equal([]);
  });

  it('more pods at once than there are take the plain path, each with an address of its own', async () => {
    const [before, { ids }] = [await status(), warm(bed.gantry)];
    const pods = await Promise.all(Array.from({ length: 2 * LIMIT }, (_, n) => run(`burst-${n}`)));
    expect(pods.filter((pod) => ids.has(pod))).to.have.length(LIMIT);
    const { taken, missed } = await status();
    expect([taken - before.taken, missed - before.missed]).to.deep.equal([LIMIT, LIMIT]);
    expect(new Set(await Promise.all(pods.map(ipOf))).size).to.equal(pods.length);
    await filled();
  });

  it('another configuration: pods are never of the old one, whose sandboxes are given back; one that does not allow them has none', async () => {
    const { ids } = warm(bed.gantry);
    conf('other');
    const pod = await run('other');
    expect([...ids]).to.not.include(pod);
    expect(existsSync(join(bed.gantry.cniDataDir, 'other', await ipOf(pod)))).to.equal(true);
    await filled();
    expect([...warm(bed.gantry).ids].filter((id) => ids.has(id))).to.deep.equal([]);
    expect(allAddresses(bed.gantry).filter(({ name }) => name.startsWith('pool/'))).to.deep.equal([]);
    conf('other', { chained: [{ type: 'portmap', capabilities: { portMappings: true, aliases: true } }] });
    await eventually('it has none', async () => (await status()).ready + (await status()).unsettled === 0);
    expect(allAddresses(bed.gantry).map(({ id }) => id)).to.deep.equal([pod]);
    await run('plain');
    expect(await status()).to.include({ ready: 0, unsettled: 0 });
  });

  it('the daemon stops: all are given back. It is killed: the next one has them still, and pods take them', async () => {
    await bed.gantry.stop();
    expect(anything()).to.deep.equal([]);
    await bed.gantry.start();
    await filled();
    const { ids } = warm(bed.gantry);
    await bed.gantry.kill();
    await bed.gantry.start();
    expect(await status()).to.include({ limit: LIMIT, ready: LIMIT, unsettled: 0 });
    expect(new Set(allAddresses(bed.gantry).map(({ id }) => id))).to.deep.equal(ids);
    expect([...ids]).to.include(await run('after'));
    await bed.gantry.kill();
    await bed.gantry.start({}, ['--warm-sandboxes', '0']);
    await eventually('none is wanted', async () => (await status()).ready + (await status()).unsettled === 0);
    expect(allAddresses(bed.gantry)).to.have.length(1);
    await bed.gantry.stop();
    await bed.gantry.start();
  });

  it('no address is left: pods get those of the pool, which comes back when there are some', async () => {
    // Five for pods, beside the bridge's own.
    conf('small', { last: '6' });
    await filled();
    expect(allAddresses(bed.gantry)).to.have.length(LIMIT);
    const pods = await Promise.all([0, 1, 2, 3].map((n) => run(`port-${n}`, hostPort(n))));
    pods.push(await run('port-4', hostPort(4)));
    expect(addressesOfPods(bed.gantry)).to.have.length(5);
    expect(await status()).to.include({ ready: 0, unsettled: 0 });
    expect((await failure(run('port-5', hostPort(5)))).details).to.match(/cni plugin "bridge" add: .*no IP addresses available/);
    expect((await bed.cri.runtime('listPodSandbox', {})).items).to.have.length(5);
  });

  it('a plugin that fails or hangs for the pool delays no pod, no change of the configuration and no end', async () => {
    bridge.inject(`if [ $CNI_COMMAND = ADD ] && ${OF_THE_POOL}; then ${bridge.stall(60)}; fi`);
    await Promise.all(Array.from({ length: LIMIT }, (_, n) => run(`taken-${n}`)));
    await eventually('one hangs', async () => (await status()).unsettled === 1);
    const begunMs = Date.now();
    await run('plain');
    expect(Date.now() - begunMs).to.be.below(5000);
    await bed.gantry.removePods();
    await bed.gantry.stop();
    expect(Date.now() - begunMs).to.be.below(20_000);
    expect(anything()).to.deep.equal([]);
    bridge.inject(`if [ $CNI_COMMAND = ADD ] && ${OF_THE_POOL}; then echo '{"code": 7, "msg": "not for you"}'; exit 1; fi`);
    await bed.gantry.start();
    await eventually('it is told', async () => /not for you/.test((await status()).failure ?? ''));
    await run('plain');
    await bed.gantry.stop();
    bridge.heal();
    await bed.gantry.start();
  });

  it('what can not be given back at once is nobody else’s pod, and is tried again', async () => {
    bridge.inject(`[ $CNI_COMMAND != DEL ] || { echo '{"code": 7, "msg": "not now"}'; exit 1; }`);
    conf('next');
    await eventually('it was tried', () => /given back yet.*not now/.test(readFileSync(bed.gantry.logPath, 'utf8')));
    expect((await bed.cri.runtime('listPodSandbox', {})).items).to.deep.equal([]);
    bridge.heal();
    conf('last');
    await filled();
    expect(allAddresses(bed.gantry).map(({ name }) => name.split('/')[0])).to.deep.equal(Array(LIMIT).fill('last'));
  });

  it(`${KILLS} kills at any moment, while sandboxes are prepared and taken, leave nothing after the last pod and an end`, async () => {
    for (let round = 0; round < KILLS; round++) {
      let isOver = false;
      const lane = async (n: number): Promise<void> => {
        for (let attempt = 0; !isOver; attempt++) {
          const pod = await run(`kill-${round}-${n}-${attempt}`);
          await sleep(Math.random() * 60);
          if (Math.random() < 0.7) await bed.cri.runtime('removePodSandbox', { podSandboxId: pod });
        }
      };
      const lanes = [0, 1].slice(0, 1 + (round % 2)).map((n) => lane(n).catch(() => undefined));
      await sleep(200 + Math.random() * 1000);
      isOver = true;
      await bed.gantry.kill();
      await Promise.all(lanes);
      if (round % 3 === 0) conf(`round-${round}`);
      await bed.gantry.start();
    }
    await bed.gantry.removePods();
    await eventually('nothing is left of pods', () => remains(bed.gantry).length === 0);
    await filled();
    await bed.gantry.stop();
    expect(anything()).to.deep.equal([]);
    await bed.gantry.start();
  });
});
