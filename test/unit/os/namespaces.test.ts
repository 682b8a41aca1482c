import { mkdtempSync, readdirSync, readFileSync, readlinkSync, rmSync, statSync, existsSync } from 'node:fs';
import { hostname, tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect } from 'chai';
import { kindOf } from '../../../src/base/errors.ts';
import { newOp } from '../../../src/base/op.ts';
import type { NamespacesRequest } from '../../../src/os/namespaces.ts';
import { adjustNamespaces, createNamespaces, removeNamespaces } from '../../../src/os/namespaces.ts';
import { mountsUnder } from '../../../src/os/mount.ts';
import { run } from '../../../src/os/spawn.ts';
import { leaksFail } from '../../lib/leaks.ts';

const ALL = ['net', 'ipc', 'uts'] as const;

describe('os/namespaces', () => {
  if (process.getuid?.() !== 0) return;
  const root = mkdtempSync(join(tmpdir(), 'gantry-test-ns-'));
  leaksFail({
    mountPrefixes: [root],
    warm: async () => {
      await createNamespaces({ dir: join(root, 'warm'), kinds: ['uts'] });
      await removeNamespaces(join(root, 'warm'));
    },
  });
  after(() => rmSync(root, { recursive: true }));
  let dir: string;
  let count = 0;
  beforeEach(() => {
    dir = join(root, String(count++));
  });
  afterEach(() => removeNamespaces(dir));

  const inside = async (script: string): Promise<string> => {
    const op = newOp('test', { timeoutMs: 5000 });
    const argv = ['nsenter', ...ALL.map((kind) => `--${kind}=${dir}/${kind}`), 'sh', '-c', script];
    const result = await run(op, { argv });
    return `${result.stdout}${result.stderr}`.trim();
  };

  async function failure(request: Omit<NamespacesRequest, 'dir'>): Promise<Error> {
    try {
      await createNamespaces({ dir, ...request });
    } catch (error) {
      return error as Error;
    }
    throw new Error('it did not fail');
  }

  it('adjusts hostname and sysctls of what is pinned, and nobody else’s; what it can not set it refuses by its field', async () => {
    await createNamespaces({ dir, kinds: ALL, hostname: 'before' });
    await adjustNamespaces({ dir, kinds: ALL, hostname: 'web-1', sysctls: { 'kernel.shm_rmid_forced': '1', 'fs.mqueue.msg_max': '33' } });
    expect((await inside('hostname; cd /proc/sys; cat kernel/shm_rmid_forced fs/mqueue/msg_max')).split('\n')).to.deep.equal([
      'web-1',
      '1',
      '33',
    ]);
    const refusal = (sysctls: Record<string, string>) =>
      adjustNamespaces({ dir, kinds: ALL, sysctls }).catch((error: unknown) => error as Error);
    for (const [key, value] of [
      ['kernel.shmmax', 'many'],
      ['net.core.somaxconn', '9'],
      ['vm.swappiness', '1'],
    ] as const) {
      const error = await refusal({ [key]: value });
      expect(kindOf(error), key).to.equal('invalidArgument');
      expect((error as Error).message).to.contain(`config.linux.sysctls[${key}]`);
    }
    expect(await inside('hostname')).to.equal('web-1');
    expect(hostname()).to.not.equal('web-1');
  });

  it('pins new ones with hostname, sysctls and lo up', async () => {
    const sysctls = { 'net.ipv4.ip_forward': '1', 'kernel.shm_rmid_forced': '1', 'net/ipv4/ping_group_range': '0 10' };
    await createNamespaces({ dir, kinds: ALL, hostname: 'web-0', sysctls });
    expect(readdirSync(dir).sort()).to.deep.equal([...ALL].sort());
    expect(statSync(dir).mode & 0o777).to.equal(0o700);
    for (const kind of ALL) {
      const own = Number(/\d+/.exec(readlinkSync(`/proc/self/ns/${kind}`))?.[0]);
      expect(statSync(join(dir, kind)).ino).not.to.equal(own);
    }
    const script = 'hostname; cd /proc/sys; cat net/ipv4/ip_forward kernel/shm_rmid_forced net/ipv4/ping_group_range; ip -br addr show lo';
    expect((await inside(script)).replace(/\s+/g, ' ')).to.equal('web-0 1 1 0 10 lo UNKNOWN 127.0.0.1/8 ::1/128');
  });

  it('makes them belong to a user namespace with the mappings asked for, without a process left', async () => {
    const user = { uids: [{ containerId: 0, hostId: 200_000, length: 65_536 }], gids: [{ containerId: 0, hostId: 300_000, length: 1000 }] };
    const sysctls = { 'net.ipv4.ip_forward': '1', 'kernel.shm_rmid_forced': '1', 'fs.mqueue.msg_max': '11' };
    await createNamespaces({ dir, kinds: ALL, hostname: 'web-0', sysctls, user });
    expect(readdirSync(dir).sort()).to.deep.equal([...ALL, 'user'].sort());
    const op = newOp('test', { timeoutMs: 5000 });
    const script =
      'cat /proc/self/uid_map /proc/self/gid_map; hostname; cd /proc/sys; cat net/ipv4/ip_forward kernel/shm_rmid_forced fs/mqueue/msg_max; ip link set lo mtu 1400 && ip -br addr show lo';
    const argv = ['nsenter', ...[...ALL, 'user'].map((kind) => `--${kind}=${dir}/${kind}`), 'sh', '-c', script];
    const { stdout, stderr } = await run(op, { argv });
    expect(`${stdout}${stderr}`.trim().replace(/\s+/g, ' ')).to.equal(
      '0 200000 65536 0 300000 1000 web-0 1 1 11 lo UNKNOWN 127.0.0.1/8 ::1/128',
    );
  });

  it('makes a user namespace alone, and nothing of one that the kernel refuses', async () => {
    const uids = [{ containerId: 0, hostId: 100_000, length: 10 }];
    await createNamespaces({ dir, kinds: [], user: { uids, gids: uids } });
    expect(readdirSync(dir)).to.deep.equal(['user']);
    await removeNamespaces(dir);
    // Ids that do not exist
    const bad = [{ containerId: 0, hostId: 0xffff_fff0, length: 100 }];
    const error = await failure({ kinds: ALL, user: { uids: bad, gids: bad } });
    expect(error.message).to.contain('create user namespace').and.contain('EINVAL');
    expect(existsSync(dir)).to.equal(false);
    const sysctl = await failure({ kinds: ALL, user: { uids, gids: uids }, sysctls: { 'kernel.shmmax': 'x' } });
    expect(sysctl.message).to.contain('config.linux.sysctls[kernel.shmmax]').and.contain('EINVAL');
    await createNamespaces({ dir, kinds: ALL, hostname: 'after' });
    expect(await inside('hostname; id -u')).to.equal('after\n0');
  });

  it('leaves every thread of ours at home', async () => {
    const hostnameBefore = readFileSync('/proc/sys/kernel/hostname', 'utf8');
    await Promise.all(
      Array.from({ length: 20 }, (_, i) => createNamespaces({ dir: join(dir, String(i)), kinds: ALL, hostname: `pod-${i}` })),
    );
    for (const kind of ALL) {
      const seen = new Set(readdirSync('/proc/self/task').map((task) => readlinkSync(`/proc/self/task/${task}/ns/${kind}`)));
      expect([...seen]).to.deep.equal([readlinkSync(`/proc/self/ns/${kind}`)]);
    }
    const pins = mountsUnder(dir).map((path) => statSync(path).ino);
    expect(new Set(pins).size).to.equal(60);
    expect(readFileSync('/proc/sys/kernel/hostname', 'utf8')).to.equal(hostnameBefore);
    await Promise.all(Array.from({ length: 20 }, (_, i) => removeNamespaces(join(dir, String(i)))));
  });

  it('leaves nothing of a create that fails half-way, and goes on working', async () => {
    for (const [sysctls, message] of [
      [{ 'net.ipv4.no_such_thing': '1' }, 'ENOENT'],
      [{ 'net.ipv4.ip_forward': 'much' }, 'EINVAL'],
    ] as const) {
      const error = await failure({ kinds: ALL, sysctls });
      expect(kindOf(error)).to.equal('invalidArgument');
      expect(error.message).to.contain('config.linux.sysctls[net.ipv4.').and.contain(message);
      expect(existsSync(dir)).to.equal(false);
    }
    const error = await failure({ kinds: ['uts'], hostname: 'x'.repeat(100) });
    expect(error.message).to.contain('sethostname');
    expect(existsSync(dir)).to.equal(false);
    await createNamespaces({ dir, kinds: ['net'] });
  });

  it('refuses sysctls that reach beyond', async () => {
    for (const [key, kinds] of [
      ['kernel.panic', ALL],
      ['vm.swappiness', ALL],
      ['net.ipv4.ip_forward', ['ipc']],
      ['kernel.msgmax', ['net']],
      ['net/../vm/swappiness', ALL],
      ['net', ALL],
      ['', ALL],
    ] as const) {
      const error = await failure({ kinds, sysctls: { [key]: '1' } });
      expect(kindOf(error), key).to.equal('invalidArgument');
    }
    expect(kindOf(await failure({ kinds: ALL, sysctls: { 'net.ipv4.ip_forward': '1\n' } }))).to.equal('invalidArgument');
    expect(existsSync(dir)).to.equal(false);
  });

  it('does not touch what a directory pins already', async () => {
    await createNamespaces({ dir, kinds: ['net'] });
    const { ino } = statSync(join(dir, 'net'));
    expect(kindOf(await failure({ kinds: ['net'] }))).to.equal('alreadyExists');
    expect(statSync(join(dir, 'net')).ino).to.equal(ino);
  });

  it('removes idempotently', async () => {
    await createNamespaces({ dir, kinds: ALL });
    await removeNamespaces(dir);
    await removeNamespaces(dir);
    expect(existsSync(dir)).to.equal(false);
    expect(mountsUnder(dir)).to.deep.equal([]);
  });
});
