import { chownSync, existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { ServiceError } from '@grpc/grpc-js';
import { status as Code } from '@grpc/grpc-js';
import { expect } from 'chai';
import type { PodSandboxConfig } from '../../src/gen/cri/runtime/v1/PodSandboxConfig.ts';
import { IdmappedView } from '../../src/os/idmapped-view.ts';
import { mountsUnder } from '../../src/os/mount.ts';
import { stopReactor } from '../../src/os/reactor.ts';
import { probeIdmap } from '../../src/snapshot/overlay-mounts.ts';
import { Bed, DEMO_IMAGE, eventually } from '../lib/bed.ts';
import { neededIdmappingRunc } from '../lib/programs.ts';

const HANDLER = 'idmap';
const SLEEP = 'trap exit TERM; sleep 1000 & wait';
const NET_ADMIN = { linux: { securityContext: { capabilities: { addCapabilities: ['NET_ADMIN'] } } } };

/** On a filesystem that has idmapped mounts: tmpfs from Linux 6.3 on, an overlay never. */
async function idmappableDir(): Promise<string | undefined> {
  try {
    for (const parent of [tmpdir(), '/var/tmp']) {
      const dir = mkdtempSync(join(parent, 'gantry-userns-'));
      if (await probeIdmap(dir)) return dir;
      rmSync(dir, { recursive: true });
    }
    return undefined;
  } finally {
    // It would collect the daemon, whose end is waited for through node:child_process.
    await stopReactor();
  }
}

/** Pods with user namespaces, under a runc that idmaps mounts (F9, S12). */
describe('user namespaces', function () {
  this.timeout(120_000);
  let bed: Bed | undefined;

  before(async function () {
    const runc = neededIdmappingRunc(this);
    const dir = await idmappableDir();
    if (dir === undefined && process.env['CI'] === 'true') throw new Error('no filesystem here has idmapped mounts');
    if (dir === undefined) return this.skip();
    bed = await Bed.make({ dir, subnet: 21, flags: ['--handler', `${HANDLER}=${runc}`] });
  });
  after(() => bed?.end());

  const it_ = (what: string, test: (bed: Bed) => Promise<void>): void => void it(what, () => test(bed as Bed));
  const mappingOf = (hostId: number): Array<{ containerId: number; hostId: number; length: number }> => [
    { containerId: 0, hostId, length: 65_536 },
  ];

  type Pid = 'POD' | 'CONTAINER';
  function podConfig(
    on: Bed,
    name: string,
    hostId: number,
    modes: { pid?: Pid; network?: 'NODE'; sysctls?: Record<string, string> } = {},
  ): PodSandboxConfig {
    const { pid = 'CONTAINER', network = 'POD', sysctls = {} } = modes;
    const usernsOptions = { mode: 'POD' as const, uids: mappingOf(hostId), gids: mappingOf(hostId + 1_000_000) };
    const config = on.podConfig(name);
    return {
      ...config,
      linux: { ...config.linux, sysctls, securityContext: { namespaceOptions: { network, pid, ipc: 'POD', usernsOptions } } },
    };
  }
  async function exec(on: Bed, containerId: string, script: string): Promise<string> {
    const { stdout } = await on.cri.runtime('execSync', { containerId, cmd: ['sh', '-c', `exec 2>&1; ${script}`], timeout: 20 });
    return Buffer.from(stdout).toString().trim();
  }
  async function refused(call: Promise<unknown>, code: Code, words: string): Promise<void> {
    const error = await call.then(
      (value) => new Error(`answered ${JSON.stringify(value)}`),
      (reason: unknown) => reason as ServiceError,
    );
    expect(error.message).to.contain(words);
    expect((error as ServiceError).code).to.equal(code);
  }
  /** What a streamed exec says on its terminal. */
  async function terminal(on: Bed, containerId: string, script: string): Promise<string> {
    const { url } = await on.cri.runtime('exec', { containerId, cmd: ['sh', '-c', script], tty: true, stdin: true, stdout: true });
    const socket = new WebSocket(url.replace('http', 'ws'), ['v5.channel.k8s.io']);
    socket.binaryType = 'arraybuffer';
    const { promise, resolve, reject } = Promise.withResolvers<string>();
    let said = '';
    socket.onmessage = ({ data }) => {
      const [channel, ...bytes] = Buffer.from(data as ArrayBuffer);
      if (channel === 1) said += Buffer.from(bytes).toString();
    };
    socket.onclose = () => resolve(said.replaceAll('\r', '').trim());
    socket.onerror = () => reject(new Error(`no exec at ${url}`));
    return promise;
  }
  const pinned = (on: Bed, pod: string): string[] => mountsUnder(join(on.gantry.state, 'pods', pod, 'ns'));

  it_('tells which handlers have them', async (on) => {
    const { runtimeHandlers } = await on.cri.runtime('status', {});
    const of = (name: string): unknown => runtimeHandlers.find((handler) => handler.name === name)?.features?.userNamespaces;
    expect(of(HANDLER)).to.equal(true);
    expect(of(''), 'of the default handler').to.equal(of('runc'));
  });

  it_('gives the pod its own users: files, network, hostname and sysctls belong to a root that is nobody outside', async (on) => {
    const config = podConfig(on, 'own', 200_000, { sysctls: { 'net.ipv4.ip_forward': '1', 'kernel.shm_rmid_forced': '1' } });
    const pod = await on.runPod(config, HANDLER);
    const container = await on.runContainer(pod, config, on.containerConfig('app', SLEEP, NET_ADMIN));
    expect(await exec(on, container, 'id -u; cat /proc/self/uid_map /proc/self/gid_map | tr -s " "')).to.equal(
      '0\n 0 200000 65536\n 0 1200000 65536',
    );
    expect(await exec(on, container, 'hostname; cat /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/shm_rmid_forced')).to.equal('own\n1\n1');
    const pid = await on.pidOf(container);
    expect(statSync(`/proc/${pid}`)).to.include({ uid: 200_000, gid: 1_200_000 });

    // Of the image, of ours, and made inside
    expect(
      await exec(on, container, 'stat -c "%n %u:%g" / /bin/busybox /home/web /www/index.html /etc/hostname /etc/resolv.conf /dev/shm'),
    ).to.equal(
      [
        '/ 0:0',
        '/bin/busybox 0:0',
        '/home/web 1000:0',
        '/www/index.html 0:0',
        '/etc/hostname 0:0',
        '/etc/resolv.conf 0:0',
        '/dev/shm 0:0',
      ].join('\n'),
    );
    const made = await exec(
      on,
      container,
      'echo x >>/bin/busybox.new; echo y >>/www/index.html; chown 1000:1000 /www/index.html; echo >>/etc/hostname; echo >>/etc/resolv.conf; echo >/dev/shm/s; mkdir /dir; ls -ln /www /dir /dev/shm | grep -c "^[-d]"',
    );
    expect(made).to.equal('2');
    const upper = join(on.gantry.snapshots, 'active', container, 'upper');
    expect(statSync(join(upper, 'bin/busybox.new'))).to.include({ uid: 200_000, gid: 1_200_000 });
    expect(statSync(join(upper, 'www/index.html'))).to.include({ uid: 201_000, gid: 1_201_000 });
    expect(await exec(on, container, 'cat /www/index.html')).to.equal('hello from gantry\ny');

    // Limited as part of its pod (CVE-2025-47291)
    expect(readFileSync(`/proc/${pid}/cgroup`, 'utf8')).to.match(new RegExp(`(?:memory|0:):.*/own/${container}$`, 'm'));

    // Root of its own network, and of nothing else
    expect(
      await exec(on, container, 'ip -o -4 addr show eth0 | grep -c 10.77.21.; ip link set lo down && ip link set lo up && echo up'),
    ).to.equal('1\nup');
    expect(await exec(on, container, 'cat /proc/1/root/etc/hostname >/dev/null && echo own; echo 1 >/proc/sys/kernel/panic')).to.match(
      /^own\n.*(?:Permission denied|Read-only)/,
    );
    expect(
      await exec(on, container, 'echo >/dev/null && head -c 1 /dev/zero | wc -c; mount -t tmpfs none /dir || echo no mounts'),
    ).to.match(/^1\n.*\nno mounts$/s);
  });

  it_('maps volumes that kubelet says are to be mapped, and no others', async (on) => {
    const dir = join(on.gantry.dir, 'volume');
    mkdirSync(join(dir, 'of-web'), { recursive: true });
    chownSync(join(dir, 'of-web'), 1000, 1000);
    writeFileSync(join(dir, 'of-root'), 'data\n', { mode: 0o600 });
    const config = podConfig(on, 'volumes', 300_000);
    const pod = await on.runPod(config, HANDLER);
    const mappings = { uidMappings: mappingOf(300_000), gidMappings: mappingOf(1_300_000) };
    const mounts = [
      { containerPath: '/mapped', hostPath: dir, ...mappings },
      { containerPath: '/mapped-ro', hostPath: dir, readonly: true, recursiveReadOnly: true, ...mappings },
      { containerPath: '/raw', hostPath: dir },
      { containerPath: '/one-file', hostPath: join(dir, 'of-root'), ...mappings },
      { containerPath: '/image', hostPath: '', readonly: true, image: { image: DEMO_IMAGE } },
    ];
    const container = await on.runContainer(pod, config, on.containerConfig('app', SLEEP, { mounts }));
    expect(
      await exec(on, container, 'stat -c "%n %u:%g" /mapped/of-root /mapped/of-web /raw/of-root /raw/of-web /one-file /image/home/web'),
    ).to.equal(
      [
        '/mapped/of-root 0:0',
        '/mapped/of-web 1000:1000',
        '/raw/of-root 65534:65534',
        '/raw/of-web 65534:65534',
        '/one-file 0:0',
        '/image/home/web 1000:0',
      ].join('\n'),
    );
    expect(
      await exec(
        on,
        container,
        'cat /mapped/of-root; echo more >>/one-file; echo new >/mapped/new; chown 7:8 /mapped/new; cat /raw/of-root; touch /mapped-ro/x',
      ),
    ).to.match(/^data\n.*raw\/of-root': Permission denied\n.*Read-only file system$/s);
    expect(statSync(join(dir, 'new'))).to.include({ uid: 7, gid: 8 });
    expect(readFileSync(join(dir, 'of-root'), 'utf8')).to.equal('data\nmore\n');
  });

  it_('lets pods with other ids stand on the same layers, at the same time', async (on) => {
    const ids = [400_000, 500_000];
    const layersBefore = readdirSync(join(on.gantry.snapshots, 'layers'));
    const containers = await Promise.all(
      ids.map(async (hostId) => {
        const config = podConfig(on, `shares-${hostId}`, hostId);
        return on.runContainer(await on.runPod(config, HANDLER), config, on.containerConfig('app', SLEEP));
      }),
    );
    const plain = on.podConfig('shares-plain', { linux: { securityContext: { namespaceOptions: { pid: 'CONTAINER' } } } });
    containers.push(await on.runContainer(await on.runPod(plain), plain, on.containerConfig('app', SLEEP)));
    for (const container of containers) {
      expect(await exec(on, container, 'stat -c "%u:%g" /bin/busybox /home/web; rm /www/index.html && ls /www | wc -l')).to.equal(
        '0:0\n1000:0\n0',
      );
    }
    expect(readdirSync(join(on.gantry.snapshots, 'layers'))).to.deep.equal(layersBefore);
  });

  it_('makes and removes many containers at once with others that have no user namespace', async (on) => {
    const mapped = podConfig(on, 'many-mapped', 550_000);
    const plain = on.podConfig('many-plain', { linux: { securityContext: { namespaceOptions: { pid: 'CONTAINER' } } } });
    const pods = [
      { sandboxConfig: mapped, podSandboxId: await on.runPod(mapped, HANDLER) },
      { sandboxConfig: plain, podSandboxId: await on.runPod(plain) },
    ];
    const image = { containerPath: '/image', hostPath: '', readonly: true, image: { image: DEMO_IMAGE } };
    await on.cri.runtime('createContainer', { ...pods[1], config: on.containerConfig('stays', SLEEP) });
    const layerMounts = (): string[] => mountsUnder(join(on.gantry.snapshots, 'layers'));
    const before = layerMounts();
    const oneAfterTheOther = async (worker: number): Promise<void> => {
      for (let turn = 0; turn < 4; turn++) {
        // Whoever finds no `sh` has a rootfs without its layers.
        const config = on.containerConfig(`${worker}-${turn}`, SLEEP, { mounts: turn % 2 === 0 ? [image] : [] });
        const { containerId } = await on.cri.runtime('createContainer', { ...pods[worker % 2], config });
        await on.cri.runtime('removeContainer', { containerId });
      }
    };
    await Promise.all(Array.from({ length: 8 }, (_, worker) => oneAfterTheOther(worker)));
    expect(layerMounts()).to.deep.equal(before);
  });

  it_('shares a PID namespace in a pod, and runs, signals, updates and counts as anywhere', async (on) => {
    const config = podConfig(on, 'pids', 600_000, { pid: 'POD' });
    const pod = await on.runPod(config, HANDLER);
    const container = await on.runContainer(pod, config, on.containerConfig('app', `echo started; ${SLEEP}`));
    const other = await on.runContainer(
      pod,
      config,
      on.containerConfig('other', 'sleep 1000', { linux: { securityContext: { runAsUser: { value: '1000' } } } }),
    );
    expect(await exec(on, other, 'id -u; ps -o args | grep -c "^[s]h -c echo started"')).to.equal('1000\n1');
    await on.cri.runtime('updateContainerResources', { containerId: container, linux: { memoryLimitInBytes: String(64 << 20) } });
    const { status } = await on.fullStatus(container);
    expect(status?.resources?.linux?.memoryLimitInBytes).to.equal(String(64 << 20));
    expect(status?.user?.linux?.uid).to.equal('0');
    const { stats } = await on.cri.runtime('containerStats', { containerId: container });
    expect(Number(stats?.memory?.workingSetBytes?.value)).to.be.greaterThan(0);
    expect(on.logOf('pids', 'app')).to.equal('started\n');
    await on.cri.runtime('stopContainer', { containerId: container, timeout: 10 });
    expect(await on.status(container)).to.include({ state: 'CONTAINER_EXITED' });
  });

  it_('gives a terminal, devices and an unmasked proc to those who ask', async (on) => {
    const config = podConfig(on, 'given', 650_000);
    const pod = await on.runPod(config, HANDLER);
    const devices = [
      { hostPath: '/dev/null', containerPath: '/dev/mine', permissions: 'rw' },
      { hostPath: '/dev/zero', containerPath: '/dev/zero', permissions: 'r' },
    ];
    const linux = { securityContext: { maskedPaths: [], readonlyPaths: [], capabilities: { addCapabilities: ['SYS_ADMIN'] } } };
    const container = await on.runContainer(pod, config, on.containerConfig('app', SLEEP, { devices, linux, tty: true }));
    expect(await exec(on, container, 'echo x >/dev/mine && head -c 2 /dev/zero | wc -c; ls -l /proc/1/fd/0')).to.match(
      /^2\n.*-> \/dev\/(?:pts\/0|console)$/,
    );
    expect(await exec(on, container, 'mount -t proc proc /mnt 2>&1 || mkdir /p && mount -t proc proc /p && ls -d /p/self')).to.contain(
      '/p/self',
    );
    expect(await terminal(on, container, 'test -t 0 && id -u && tty && echo hi >$(tty)')).to.match(/^0\n\/dev\/pts\/\d+\nhi$/);
    const all = { securityContext: { privileged: true } };
    const privileged = await on.runContainer(pod, config, on.containerConfig('privileged', SLEEP, { linux: all }));
    expect(
      await exec(on, privileged, 'mkdir /m && mount -t tmpfs none /m && echo mounted; cat /proc/kmsg; hostname other && hostname'),
    ).to.match(/^mounted\n.*(?:denied|not permitted)\nother$/s);
  });

  it_('goes on over a restart of the daemon, and tells the same of it', async (on) => {
    const config = podConfig(on, 'restart', 700_000, { pid: 'POD' });
    const pod = await on.runPod(config, HANDLER);
    const container = await on.runContainer(pod, config, on.containerConfig('app', SLEEP));
    const told = async (): Promise<string> => {
      const { items } = await on.cri.runtime('listPodSandbox', { filter: { id: pod } });
      const { timestamp: _, ...sandbox } = await on.cri.runtime('podSandboxStatus', { podSandboxId: pod, verbose: true });
      return JSON.stringify({ items, sandbox, container: await on.fullStatus(container) });
    };
    const before = await told();
    expect(before).to.contain('"hostId":700000').and.contain('SANDBOX_READY');
    await on.gantry.kill();
    await on.gantry.start();
    expect(await told()).to.equal(before);
    expect(await exec(on, container, 'cat /proc/self/uid_map | tr -s " "')).to.equal('0 700000 65536');
    const second = await on.runContainer(pod, config, on.containerConfig('second', 'cat /proc/self/uid_map', {}));
    await eventually('the second container ended', async () => (await on.status(second)).state === 'CONTAINER_EXITED');
    expect(on.logOf('restart', 'second')).to.match(/^\s*0\s+700000\s+65536\n$/);
    await on.cri.runtime('stopPodSandbox', { podSandboxId: pod });
    expect(pinned(on, pod)).to.deep.equal([]);
  });

  it_('has the network of the host where the pod asks for both', async (on) => {
    const config = podConfig(on, 'host-network', 800_000, { network: 'NODE' });
    const pod = await on.runPod(config, HANDLER);
    const container = await on.runContainer(pod, config, on.containerConfig('app', SLEEP, NET_ADMIN));
    expect(await exec(on, container, 'ls /sys/class/net')).to.contain(on.gantry.bridge);
    expect(await exec(on, container, 'tr -s " " </proc/self/uid_map')).to.equal('0 800000 65536');
    expect(await exec(on, container, 'ip link set lo down')).to.contain('not permitted');
    const script = 'd=/sys/fs/cgroup; [ -d $d/memory ] && d=$d/memory; mkdir $d/x; touch /sys/x';
    expect(await exec(on, container, script)).to.match(/^mkdir: .*Read-only.*\ntouch: .*$/);
  });

  it_('refuses what can not be, and leaves nothing of it', async (on) => {
    const pods = async (): Promise<number> => (await on.cri.runtime('listPodSandbox', {})).items.length;
    const count = await pods();
    const field = 'config.linux.security_context.namespace_options.userns_options';
    const config = podConfig(on, 'refused', 900_000);
    const { runtimeHandlers } = await on.cri.runtime('status', {});
    if (runtimeHandlers.find(({ name }) => name === '')?.features?.userNamespaces === false)
      await refused(on.cri.runtime('runPodSandbox', { config }), Code.INVALID_ARGUMENT, `${field}: the handler has no user namespaces`);
    expect(await pods()).to.equal(count);

    const pod = await on.runPod(config, HANDLER);
    const create = (change: object): Promise<unknown> =>
      on.cri.runtime('createContainer', { podSandboxId: pod, sandboxConfig: config, config: on.containerConfig('bad', SLEEP, change) });
    const usernsOptions = { mode: 'POD', uids: mappingOf(1), gids: mappingOf(1) };
    await refused(
      create({ linux: { securityContext: { namespaceOptions: { pid: 'CONTAINER', usernsOptions } } } }),
      Code.INVALID_ARGUMENT,
      `${field}: is not that of the pod`,
    );
    await refused(
      create({ linux: { securityContext: { runAsUser: { value: '70000' } } } }),
      Code.INVALID_ARGUMENT,
      'run_as_user: 70000 is not mapped',
    );
    const volumes = join(on.gantry.dir, 'proc-volume');
    mkdirSync(volumes, { recursive: true });
    // A filesystem without idmapped mounts
    await refused(
      create({ mounts: [{ containerPath: '/p', hostPath: '/proc', uidMappings: mappingOf(900_000), gidMappings: mappingOf(900_000) }] }),
      Code.INTERNAL,
      'create',
    );
    const plain = on.podConfig('refused-plain', { linux: { securityContext: { namespaceOptions: { pid: 'CONTAINER' } } } });
    const mounts = [{ containerPath: '/p', hostPath: volumes, uidMappings: mappingOf(1), gidMappings: mappingOf(1) }];
    const plainPod = await on.runPod(plain, HANDLER);
    await refused(
      on.cri.runtime('createContainer', {
        podSandboxId: plainPod,
        sandboxConfig: plain,
        config: on.containerConfig('bad', SLEEP, { mounts }),
      }),
      Code.INVALID_ARGUMENT,
      'config.mounts[0].uidMappings: the pod sandbox has no user namespace',
    );
    const { containers } = await on.cri.runtime('listContainers', { filter: { podSandboxId: pod } });
    expect(containers).to.deep.equal([]);
    expect(mountsUnder(join(on.gantry.state, 'containers')).filter((path) => path.includes('layers'))).to.deep.equal([]);
  });

  it_('removes a container that was being made when the daemon died, and not the layers that it had mounted', async (on) => {
    const config = podConfig(on, 'half-made', 950_000);
    const pod = await on.runPod(config, HANDLER);
    const container = await on.runContainer(pod, config, on.containerConfig('app', SLEEP));
    const layersDir = join(on.gantry.snapshots, 'layers');
    const at = join(on.gantry.state, 'containers', container, 'layers');
    const layers = readdirSync(layersDir);
    new IdmappedView({ dir: layersDir, userns: join(on.gantry.state, 'pods', pod, 'ns/user'), at, recursive: true });
    expect(readdirSync(at)).to.deep.equal(layers);
    await on.cri.runtime('removeContainer', { containerId: container });
    expect(existsSync(at)).to.equal(false);
    const again = await on.runContainer(pod, config, on.containerConfig('again', SLEEP));
    expect(await exec(on, again, 'cat /www/index.html')).to.equal('hello from gantry');
  });

  it_('leaves no namespace, mount or directory of a pod that is removed', async (on) => {
    const config = podConfig(on, 'removed', 1_000_000, { pid: 'POD' });
    const pod = await on.runPod(config, HANDLER);
    const container = await on.runContainer(pod, config, on.containerConfig('app', SLEEP));
    expect(pinned(on, pod).map((path) => path.split('/').at(-1))).to.have.members(['net', 'ipc', 'uts', 'user']);
    await on.cri.runtime('stopPodSandbox', { podSandboxId: pod });
    await on.cri.runtime('removePodSandbox', { podSandboxId: pod });
    expect(mountsUnder(on.gantry.state).filter((path) => path.includes(pod) || path.includes(container))).to.deep.equal([]);
    for (const path of [join('pods', pod), join('containers', container), join('containers', pod)])
      expect(existsSync(join(on.gantry.state, path)), path).to.equal(false);
  });
});
