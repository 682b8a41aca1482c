import { expect } from 'chai';
import { NO_EDITS } from '../../../../src/container/oci-spec/cdi-edits.ts';
import { capabilitiesOf, CAPABILITIES, containerCapabilities } from '../../../../src/container/oci-spec/capabilities.ts';
import { mountsOf } from '../../../../src/container/oci-spec/mounts.ts';
import type { MountsInput } from '../../../../src/container/oci-spec/mounts.ts';
import { pauseSpec } from '../../../../src/container/oci-spec/pause.ts';
import { maskedAndReadonly } from '../../../../src/container/oci-spec/paths.ts';
import { argsOf, cwdOf, envOf } from '../../../../src/container/oci-spec/process.ts';
import { resourcesOf } from '../../../../src/container/oci-spec/resources.ts';
import { defaultSeccomp } from '../../../../src/container/oci-spec/seccomp-default.ts';
import { buildExecProcess, buildSpec } from '../../../../src/container/oci-spec/spec.ts';
import type { SpecInput } from '../../../../src/container/oci-spec/spec.ts';
import { containerConfig } from '../../../lib/records.ts';

const image = {
  user: '',
  env: ['A=1', 'PATH=/x', 'bad', '=x'],
  entrypoint: ['/e'],
  cmd: ['c'],
  workingDir: '',
  stopSignal: '',
  volumes: [],
  labels: {},
};
const unlimited = {
  ...{ cpuPeriod: '0', cpuQuota: '0', cpuShares: '0', memoryLimitInBytes: '0', oomScoreAdj: '0', cpusetCpus: '', cpusetMems: '' },
  ...{ hugepageLimits: [], unified: {}, memorySwapLimitInBytes: '0' },
};
const noCaps = { addCapabilities: [], dropCapabilities: [], addAmbientCapabilities: [] };
const bounding = CAPABILITIES.filter((name) => name !== 'CAP_SYS_RESOURCE');

const input = (change: Partial<SpecInput> = {}): SpecInput => ({
  id: 'c',
  config: containerConfig(),
  image,
  rootfsPath: '/bundle/rootfs',
  hostname: 'web',
  namespaces: { network: { path: '/ns/net' }, ipc: { path: '/ns/ipc' }, uts: { path: '/ns/uts' }, pid: {} },
  userNamespace: undefined,
  user: { uid: 0, gid: 0, additionalGids: [0] },
  cgroupsPath: '/gantry/x/c',
  mounts: [],
  podFiles: { resolvConf: '/pod/resolv.conf', shm: '/pod/shm' },
  devices: [],
  cdi: { edits: NO_EDITS, devices: [] },
  localhostSeccomp: undefined,
  apparmorProfile: undefined,
  selinux: undefined,
  annotations: {},
  daemon: {
    cgroupMode: 'hybrid',
    cgroupLimits: { hugepages: true, swap: true },
    bounding,
    oomScoreAdj: 0,
    mayLowerOomScore: false,
    nofile: { soft: 1024, hard: 4096 },
    apparmor: false,
    selinux: false,
    thermalThrottles: [],
  },
  ...change,
});

describe('container/oci-spec', () => {
  it('merges command and arguments as the CRI says', () => {
    const args = (command: string[], rest: string[]): string[] => argsOf({ command, args: rest }, image);
    expect(args([], [])).to.deep.equal(['/e', 'c']);
    expect(args([], ['a'])).to.deep.equal(['/e', 'a']);
    expect(args(['x'], [])).to.deep.equal(['x']);
    expect(args(['x'], ['a'])).to.deep.equal(['x', 'a']);
    expect(() => argsOf({ command: [], args: [] }, { entrypoint: [], cmd: [] })).to.throw('config.command: is empty');
  });

  it('lets the CRI win over the image by name, and drops entries without one', () => {
    const env = envOf(
      {
        envs: [
          { key: 'A', value: '2' },
          { key: 'E', value: 'a=b' },
        ],
        tty: false,
      },
      image,
      'web',
    );
    expect(env).to.deep.equal(['PATH=/x', 'HOSTNAME=web', 'A=2', 'E=a=b']);
    expect(cwdOf({ workingDir: '' }, { workingDir: 'relative' })).to.equal('/');
  });

  it('cuts capabilities to what the daemon has, and keeps inheritable empty (S10)', () => {
    const caps = (change: Partial<typeof noCaps>, privileged = false): readonly string[] =>
      containerCapabilities({ ...noCaps, ...change }, { privileged, bounding }).bounding;
    expect(caps({}, true)).to.deep.equal(bounding);
    expect(caps({ addCapabilities: ['ALL'] as never })).to.deep.equal(bounding);
    expect(caps({ dropCapabilities: ['ALL'] as never, addCapabilities: ['net_admin'] as never })).to.deep.equal(['CAP_NET_ADMIN']);
    expect(caps({ addCapabilities: ['SYS_RESOURCE'] as never })).to.not.include('CAP_SYS_RESOURCE');
    expect(containerCapabilities(noCaps, { privileged: false, bounding }).inheritable).to.deep.equal([]);
    expect(() => caps({ addCapabilities: ['NOPE'] as never })).to.throw(
      'config.linux.security_context.capabilities.add_capabilities[0]: "NOPE"',
    );
    expect(capabilitiesOf(0b101n)).to.deep.equal(['CAP_CHOWN', 'CAP_DAC_READ_SEARCH']);
  });

  it('puts a mount of the CRI where it says, in place of a default, parents first', () => {
    const base: MountsInput = {
      mounts: [],
      podFiles: { resolvConf: '/r' },
      privileged: false,
      readonlyRootfs: false,
      hostNetwork: false,
      ownUsers: false,
    };
    const mount = (containerPath: string): MountsInput['mounts'][number] => ({
      containerPath,
      source: '/s',
      readOnly: true,
      recursiveReadOnly: false,
      propagation: 'rslave',
    });
    const mounts = mountsOf({ ...base, mounts: [mount('/etc/resolv.conf'), mount('/data/sub//x/'), mount('/data')] });
    expect(mounts.filter(({ destination }) => destination === '/etc/resolv.conf').map(({ source }) => source)).to.deep.equal(['/s']);
    const order = mounts.map(({ destination }) => destination);
    expect(order.indexOf('/data')).to.be.lessThan(order.indexOf('/data/sub/x'));
    expect(mounts.find(({ destination }) => destination === '/data')?.options).to.deep.equal(['rbind', 'rslave', 'ro']);
    expect(mounts.find(({ destination }) => destination === '/sys/fs/cgroup')?.type).to.equal('cgroup');
  });

  it('joins the user namespace of the pod, with its mappings, and hands those of volumes to the runtime', () => {
    const uids = [{ containerId: 0, hostId: 200_000, length: 65_536 }];
    const gids = [{ containerId: 0, hostId: 300_000, length: 65_536 }];
    const volume = { containerPath: '/v', source: '/s', readOnly: false, recursiveReadOnly: false, propagation: 'private' as const };
    const spec = buildSpec(
      input({ userNamespace: { path: '/ns/user', uids, gids }, mounts: [{ ...volume, uidMappings: uids, gidMappings: gids }] }),
    );
    expect(spec.ociVersion).to.equal('1.1.0');
    expect(spec.linux.namespaces).to.deep.include({ type: 'user', path: '/ns/user' });
    const oci = (hostID: number): object[] => [{ containerID: 0, hostID, size: 65_536 }];
    expect(spec.linux).to.deep.include({ uidMappings: oci(200_000), gidMappings: oci(300_000) });
    expect(spec.mounts.find(({ destination }) => destination === '/v')).to.deep.include({
      uidMappings: oci(200_000),
      gidMappings: oci(300_000),
    });
    const without = buildSpec(input({ mounts: [{ ...volume, uidMappings: [], gidMappings: [] }] }));
    expect(without.ociVersion).to.equal('1.0.2');
    expect(without.linux.namespaces.map(({ type }) => type)).to.not.include('user');
    expect(without.linux).to.not.have.any.keys('uidMappings', 'gidMappings');
    expect(without.mounts.find(({ destination }) => destination === '/v')).to.not.have.any.keys('uidMappings', 'gidMappings');
  });

  it('shows the sysfs of the host where the network is the host and the users are not', () => {
    const userNamespace = {
      path: '/ns/user',
      uids: [{ containerId: 0, hostId: 1000, length: 10 }],
      gids: [{ containerId: 0, hostId: 1000, length: 10 }],
    };
    const sysOf = (change: Partial<SpecInput>): object | undefined =>
      buildSpec(input(change)).mounts.find(({ destination }) => destination === '/sys');
    const { namespaces } = input();
    expect(sysOf({ userNamespace })).to.include({ type: 'sysfs' });
    expect(sysOf({ namespaces: { ...namespaces, network: 'host' } })).to.include({ type: 'sysfs' });
    expect(sysOf({ userNamespace, namespaces: { ...namespaces, network: 'host' } })).to.include({ type: 'bind', source: '/sys' });
  });

  it('has the labels of SELinux where there are some, for processes that follow as well', () => {
    const selinux = { process: 'u:r:t:s0:c1,c2', mount: 'u:object_r:f:s0:c1,c2' };
    const { namespaces, daemon } = input();
    const pause = {
      id: 'p',
      args: ['/pause'],
      rootfsPath: '/r',
      namespaces,
      userNamespace: undefined,
      cgroupsPath: '/c',
      annotations: {},
      seccomp: true,
      daemon,
    };
    for (const spec of [buildSpec(input({ selinux })), pauseSpec({ ...pause, selinux })]) {
      expect([spec.process.selinuxLabel, spec.linux.mountLabel]).to.deep.equal([selinux.process, selinux.mount]);
      expect(buildExecProcess({ spec, command: ['x'], tty: false }).selinuxLabel).to.equal(selinux.process);
    }
    // runc refuses labels where the kernel has no SELinux.
    for (const spec of [buildSpec(input()), pauseSpec({ ...pause, selinux: undefined })]) {
      expect(spec.process).to.not.have.property('selinuxLabel');
      expect(spec.linux).to.not.have.property('mountLabel');
    }
  });

  it('runs the pause process as nobody, or as the last that a small user namespace has', () => {
    const pause = (length?: number): number => {
      const ids = [{ containerId: 0, hostId: 5000, length: length ?? 0 }];
      const { namespaces, daemon } = input();
      const userNamespace = length === undefined ? undefined : { path: '/ns/user', uids: ids, gids: ids };
      return pauseSpec({
        id: 'p',
        args: ['/pause'],
        rootfsPath: '/r',
        namespaces,
        userNamespace,
        cgroupsPath: '/c',
        annotations: {},
        seccomp: true,
        daemon,
      }).process.user.uid;
    };
    expect([pause(), pause(65_536), pause(1000)]).to.deep.equal([65_534, 65_534, 999]);
  });

  it('masks what tells of the host, whatever list is given (S10)', () => {
    type Context = Parameters<typeof maskedAndReadonly>[0];
    const throttles = ['/sys/devices/system/cpu/cpu0/thermal_throttle'];
    const always = ['/proc/interrupts', '/sys/devices/virtual/powercap', ...throttles];
    const lists = (maskedPaths: string[], readonlyPaths: string[], change = {}): Context =>
      ({ privileged: false, maskedPaths, readonlyPaths, ...change }) as unknown as Context;
    const masked = (context: Context, ownUsers = false): readonly string[] =>
      maskedAndReadonly(context, { ownUsers, throttles }).maskedPaths;
    expect(masked(null)).to.include.members([...always, '/proc/kcore', '/sys/firmware']);
    expect(masked(lists(['/a', '/a'], []))).to.deep.equal(['/a', ...always]);
    expect(masked(lists(['/proc/interrupts'], ['/b']))).to.deep.equal(always);
    expect(masked(lists(['/a'], ['/b'], { privileged: true }))).to.deep.equal([]);
  });

  it('believes empty lists in a user namespace only (S15)', () => {
    const empty = { privileged: false, maskedPaths: [], readonlyPaths: [] } as never;
    expect(maskedAndReadonly(empty, { ownUsers: true, throttles: ['/t'] })).to.deep.equal({ maskedPaths: [], readonlyPaths: [] });
    expect(maskedAndReadonly(empty, { ownUsers: false, throttles: [] }).maskedPaths).to.include('/proc/kcore');
    expect(maskedAndReadonly(empty, { ownUsers: false, throttles: [] }).readonlyPaths).to.include('/proc/sys');
    expect(maskedAndReadonly(null, { ownUsers: true, throttles: [] }).maskedPaths).to.include('/proc/kcore');
    expect(buildSpec(input({ userNamespace: { path: '/u', uids: [], gids: [] } })).linux.maskedPaths).to.include('/proc/kcore');
  });

  it('gives no capability to inherit but those that are to be ambient (S10)', () => {
    const inheritable = (change: object, privileged = false): readonly string[] =>
      containerCapabilities({ ...noCaps, ...change }, { privileged, bounding }).inheritable;
    expect(inheritable({})).to.deep.equal([]);
    expect(inheritable({ addCapabilities: ['ALL'] })).to.deep.equal([]);
    expect(inheritable({}, true)).to.deep.equal([]);
    expect(inheritable({ addAmbientCapabilities: ['NET_BIND_SERVICE'] })).to.deep.equal(['CAP_NET_BIND_SERVICE']);
  });

  it('shares nothing between two specs, nor with what they are made of (S10)', () => {
    const from = input();
    const before = structuredClone(from);
    const [one, two] = [buildSpec(from), buildSpec(from)];
    for (const list of [one.process.env, one.mounts, one.linux.resources.devices ?? [], one.process.capabilities.bounding] as unknown[][])
      list.push('changed');
    expect(JSON.stringify(two)).to.not.contain('changed');
    expect(from).to.deep.equal(before);
  });

  it('binds devices that have another path on the host, in a user namespace', () => {
    const device = { type: 'c' as const, major: 1, minor: 3, fileMode: 0o666, uid: 0, gid: 0, permissions: 'rw' };
    const devices = [
      { ...device, path: '/dev/mine', source: '/dev/null' },
      { ...device, path: '/dev/zero', source: '/dev/zero' },
    ];
    const ids = [{ containerId: 0, hostId: 1000, length: 10 }];
    const spec = buildSpec(input({ devices, userNamespace: { path: '/ns/user', uids: ids, gids: ids } }));
    expect(spec.linux.devices.map(({ path }) => path)).to.deep.equal(['/dev/zero']);
    expect(spec.mounts.at(-1)).to.include({ destination: '/dev/mine', type: 'bind', source: '/dev/null' });
    expect(spec.linux.resources.devices?.at(-1)).to.include({ major: 1, minor: 3, access: 'rw' });
    const plain = buildSpec(input({ devices }));
    expect(plain.linux.devices.map((node) => node.path)).to.deep.equal(['/dev/mine', '/dev/zero']);
    expect(plain.linux.devices[0]).to.not.have.property('source');
  });

  it('leaves out limits that are not set, and refuses unified without cgroup v2', () => {
    const limits = {
      ...{
        cpuPeriod: '0',
        cpuQuota: '-1',
        cpuShares: '512',
        memoryLimitInBytes: '1048576',
        oomScoreAdj: '0',
        cpusetCpus: '0-1',
        cpusetMems: '',
      },
      ...{ hugepageLimits: [{ pageSize: '2MB', limit: '0' }], unified: {}, memorySwapLimitInBytes: '0' },
    };
    const host = { cgroupMode: 'v1', cgroupLimits: { hugepages: true, swap: true } } as const;
    expect(resourcesOf(limits, host)).to.deep.equal({
      memory: { limit: 1048576, swap: 1048576 },
      cpu: { shares: 512, quota: -1, cpus: '0-1' },
      hugepageLimits: [{ pageSize: '2MB', limit: 0 }],
    });
    expect(resourcesOf({ ...limits, memorySwapLimitInBytes: '-1' }, host).memory).to.deep.equal({ limit: 1048576, swap: -1 });
    expect(
      resourcesOf({ ...limits, memorySwapLimitInBytes: '-1' }, { ...host, cgroupLimits: { hugepages: false, swap: false } }),
    ).to.deep.equal({
      memory: { limit: 1048576 },
      cpu: { shares: 512, quota: -1, cpus: '0-1' },
    });
    expect(() => resourcesOf({ ...limits, unified: { 'memory.high': '1' } }, host)).to.throw('config.linux.resources.unified');
  });

  it('allows no new namespaces and no AF_ALG without CAP_SYS_ADMIN', () => {
    const rules = defaultSeccomp([], 'x64').syscalls;
    const allowed = rules.filter(({ action, args }) => action === 'SCMP_ACT_ALLOW' && !args).flatMap(({ names }) => names);
    expect(allowed).to.include.members(['read', 'openat', 'futex', 'execve']);
    for (const name of ['mount', 'unshare', 'setns', 'bpf', 'init_module', 'keyctl', 'clone', 'clone3', 'socket', 'reboot'])
      expect(allowed).to.not.include(name);
    expect(rules.find(({ names }) => names.includes('clone3'))).to.include({ action: 'SCMP_ACT_ERRNO', errnoRet: 38 });
    expect(defaultSeccomp(['CAP_SYS_ADMIN'], 'x64').syscalls.flatMap(({ names }) => names)).to.include('mount');
  });

  it('builds a spec, and the process of an exec from it', () => {
    const spec = buildSpec(
      input({ config: containerConfig({ linux: { resources: { ...unlimited, oomScoreAdj: '-999' }, securityContext: null } }) }),
    );
    expect(spec.process.oomScoreAdj).to.equal(0);
    expect(spec.process.rlimits).to.deep.equal([{ type: 'RLIMIT_NOFILE', soft: 1024, hard: 4096 }]);
    expect(spec.linux.namespaces).to.deep.include.members([{ type: 'pid' }, { type: 'network', path: '/ns/net' }, { type: 'mount' }]);
    expect(spec.linux.resources.devices?.[0]).to.deep.equal({ allow: false, access: 'rwm' });
    expect(spec.hostname).to.equal('web');
    expect(buildSpec(input({ namespaces: { ...input().namespaces, uts: 'host' } }))).to.not.have.property('hostname');
    const exec = buildExecProcess({ spec, command: ['ls'], tty: false });
    expect(exec).to.deep.equal({ ...spec.process, args: ['ls'], terminal: false });
  });

  it('keeps hostile words of an image out of everything but the process (S1)', () => {
    const hostile = {
      ...image,
      labels: { 'containerd.io/restart.loguri': 'binary:///x' },
      volumes: ['/../../etc', '/proc'],
      stopSignal: '9;x',
    };
    expect(buildSpec(input({ image: hostile }))).to.deep.equal(buildSpec(input()));
  });
});
