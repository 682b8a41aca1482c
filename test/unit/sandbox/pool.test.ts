import { expect } from 'chai';
import { mkdirSync, mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { ClassifiedError } from '../../../src/base/errors.ts';
import { silentLogger } from '../../../src/base/log.ts';
import { newOp } from '../../../src/base/op.ts';
import type { Attachment, PodNetworkRequest } from '../../../src/network/attach.ts';
import { createNamespaces, removeNamespaces } from '../../../src/os/namespaces.ts';
import { RecordStore } from '../../../src/os/record-store.ts';
import type { SandboxDeps } from '../../../src/sandbox/deps.ts';
import { canBeWarm, WarmPool } from '../../../src/sandbox/pool.ts';
import type { PodSandboxRecord } from '../../../src/sandbox/record.ts';
import { parseSandboxRecord } from '../../../src/sandbox/record.ts';
import { leaksFail } from '../../lib/leaks.ts';
import { podConfig, podRecord } from '../../lib/records.ts';

type Linux = ReturnType<typeof podConfig>['linux'];
type Options = NonNullable<NonNullable<NonNullable<Linux>['securityContext']>['namespaceOptions']>;
const withOptions = (change: Partial<Options>): ReturnType<typeof podConfig> =>
  podConfig({
    linux: {
      sysctls: {},
      securityContext: { namespaceOptions: { network: 'POD', pid: 'POD', ipc: 'POD', usernsOptions: null, ...change } },
    },
  } as unknown as Parameters<typeof podConfig>[0]);

describe('sandbox/pool', () => {
  it('serves pods of which the network has to know nothing', () => {
    const port = (hostPort: number) => ({ protocol: 'TCP' as const, containerPort: 80, hostPort, hostIp: '' });
    const sysctls = (all: Record<string, string>) => podConfig({ linux: { sysctls: all } } as unknown as Parameters<typeof podConfig>[0]);
    const cases: Array<[string, ReturnType<typeof podConfig>, boolean]> = [
      ['plain', podConfig(), true],
      ['container ports', podConfig({ portMappings: [port(0)] }), true],
      ['host ports', podConfig({ portMappings: [port(0), port(80)] }), false],
      ['bandwidth', podConfig({ annotations: { 'kubernetes.io/ingress-bandwidth': '1M' } }), false],
      ['bandwidth that is none', podConfig({ annotations: { 'kubernetes.io/ingress-bandwidth': 'much' } }), true],
      ['IPC sysctls', sysctls({ 'kernel.shmmax': '1', 'fs.mqueue.msg_max': '9' }), true],
      ['net sysctls', sysctls({ 'kernel.shmmax': '1', 'net.core.somaxconn': '9' }), false],
      ['net sysctls with slashes', sysctls({ 'net/core/somaxconn': '9' }), false],
      ['a PID namespace of any kind', withOptions({ pid: 'NODE' }), true],
      ['the host’s network', withOptions({ network: 'NODE' }), false],
      ['the host’s IPC', withOptions({ ipc: 'NODE' }), false],
      ['a user namespace', withOptions({ usernsOptions: { mode: 'POD', uids: [], gids: [] } }), false],
    ];
    for (const [what, config, expected] of cases) expect(canBeWarm(config), what).to.equal(expected);
  });

  describe('with a network', () => {
    if (process.getuid?.() !== 0) return;
    const root = mkdtempSync(join(tmpdir(), 'gantry-test-pool-'));
    leaksFail({
      mountPrefixes: [root],
      warm: async () => {
        await createNamespaces({ dir: join(root, 'warm'), kinds: ['uts'] });
        await removeNamespaces(join(root, 'warm'));
      },
    });
    after(() => rmSync(root, { recursive: true }));

    let count = 0;
    let conflist: unknown;
    let busy = 0;
    let fails: ((request: PodNetworkRequest) => Error | undefined) | undefined;
    let detachFails = false;
    let changed: () => void = () => undefined;
    let attached: Set<string>;
    let seen: string[];
    let dirs: { state: string; records: string };
    let store: RecordStore<PodSandboxRecord>;
    const pools: WarmPool[] = [];

    beforeEach(() => {
      const dir = join(root, String(count++));
      dirs = { state: join(dir, 'state'), records: join(dir, 'records') };
      for (const each of [join(dirs.state, 'pods'), dirs.records]) mkdirSync(each, { recursive: true });
      [conflist, busy, fails, detachFails, attached, seen] = [{ name: 'one' }, 0, undefined, false, new Set(), []];
      store = new RecordStore(dirs.records, silentLogger);
    });
    afterEach(async () => {
      detachFails = false;
      for (const pool of pools.splice(0)) await pool.close();
      await store.close();
      expect([...attached]).to.deep.equal([]);
      expect([readdirSync(dirs.records), readdirSync(join(dirs.state, 'pods'))]).to.deep.equal([[], []]);
    });

    const network = {
      aheadConflist: async () => conflist,
      onChange: (listener: () => void) => void (changed = listener),
      attach: async (_op: unknown, request: PodNetworkRequest, by: unknown): Promise<Attachment> => {
        const { sandboxId } = request;
        seen.push(`${request.inBackground ? 'warm' : request.pod.name} ${store.get(sandboxId)?.state ?? 'none'} ${JSON.stringify(by)}`);
        await sleep(2);
        const error = fails?.(request);
        if (error) throw error;
        attached.add(sandboxId);
        return { network: 'n', ifName: 'eth0', ips: ['10.0.0.1'], mac: undefined, conflist: by, result: {} };
      },
      detach: async (_op: unknown, { sandboxId }: PodNetworkRequest): Promise<void> => {
        await sleep(5);
        if (detachFails) throw new Error('not now');
        attached.delete(sandboxId);
      },
    };
    const poolOf = (limit: number, burst: { burstLimit: number; burstMs?: number } = { burstLimit: limit }): WarmPool => {
      const deps = {
        stateDir: dirs.state,
        bootId: 'boot',
        log: silentLogger,
        store,
        network,
        containers: { stopAll: async () => undefined, removeAll: async () => undefined },
        pause: { remove: async () => undefined },
      } as unknown as SandboxDeps;
      const pool = new WarmPool(() => deps, { limit, ...burst, busy: () => busy });
      pools.push(pool);
      pool.start();
      return pool;
    };
    const until = async (what: string, holds: () => boolean): Promise<void> => {
      for (const lateMs = Date.now() + 5000; !holds(); await sleep(5)) if (Date.now() > lateMs) throw new Error(`not in time: ${what}`);
    };
    const isReady = (pool: WarmPool, ready: number) =>
      until(`${ready} are ready`, () => pool.status().ready === ready && pool.status().unsettled === 0);
    const take = async (pool: WarmPool): Promise<PodSandboxRecord | undefined> => {
      const taken = await pool.take(podConfig(), (warm) => ({ ...warm, state: 'creating' }));
      if (taken) await store.put(taken);
      return taken;
    };
    const full = (): Error => new ClassifiedError('internal', 'full', { detail: { hasNoAddress: true } });
    const request = (name: string): PodNetworkRequest =>
      ({ sandboxId: name, netnsPath: '', pod: { name, namespace: '', uid: '' } }) as unknown as PodNetworkRequest;
    /** What a pod does with one that it took. */
    const end = async ({ id }: PodSandboxRecord): Promise<void> => {
      await removeNamespaces(join(dirs.state, 'pods', id, 'ns'));
      rmSync(join(dirs.state, 'pods', id), { recursive: true });
      attached.delete(id);
      await store.delete(id);
    };

    it('prepares as many as it may, with a record and the conflist in it before the network is asked', async () => {
      const pool = poolOf(2);
      await isReady(pool, 2);
      expect(seen).to.deep.equal(['warm warm {"name":"one"}', 'warm warm {"name":"one"}']);
      const again = new RecordStore<PodSandboxRecord>(dirs.records, silentLogger);
      expect(await again.load(parseSandboxRecord)).to.deep.equal([]);
      expect(again.values().map(({ state, attachment }) => `${state} ${attachment?.ips.join()}`)).to.deep.equal([
        'warm 10.0.0.1',
        'warm 10.0.0.1',
      ]);
      await again.close();
    });

    it('gives each to one pod, counts those that found none, and makes up for them', async () => {
      const pool = poolOf(2);
      await isReady(pool, 2);
      busy = 9;
      const taken = await Promise.all([take(pool), take(pool), take(pool)]);
      const found = taken.filter((each) => each !== undefined);
      expect(new Set(found.map(({ id }) => id)).size).to.equal(2);
      expect(pool.status()).to.include({ ready: 0, unsettled: 0, taken: 2, missed: 1 });
      await sleep(100);
      expect(pool.status(), 'a burst has the machine for itself').to.include({ ready: 0, unsettled: 0 });
      busy = 0;
      await isReady(pool, 2);
      for (const each of found) await end(each);
    });

    it('keeps more for a while after a burst that found too few, and gives them back one by one when nothing is at work', async () => {
      const pool = poolOf(2, { burstLimit: 5, burstMs: 1500 });
      await isReady(pool, 2);
      busy = 2;
      const few = await Promise.all([take(pool), take(pool), take(pool)]);
      expect(pool.status(), 'no more than it holds were worked on').to.include({ limit: 2, missed: 1 });
      busy = 0;
      await isReady(pool, 2);
      busy = 9;
      const many = await Promise.all([take(pool), take(pool), take(pool)]);
      busy = 0;
      expect(pool.status()).to.include({ limit: 5, missed: 2 });
      await isReady(pool, 5);
      busy = 1;
      await until('the time is over', () => pool.status().limit === 2);
      await sleep(100);
      expect(pool.status(), 'somebody is at work').to.include({ ready: 5, unsettled: 0 });
      busy = 0;
      await isReady(pool, 2);
      for (const each of [...few, ...many]) if (each !== undefined) await end(each);
    });

    it('keeps one whose pod could not be made of it', async () => {
      const pool = poolOf(1);
      await isReady(pool, 1);
      const refused = pool.take(podConfig(), () => {
        throw new Error('no level is free');
      });
      expect(await refused.catch((error: Error) => error.message)).to.equal('no level is free');
      expect(pool.status()).to.include({ ready: 1, taken: 0 });
      expect(await pool.take(withOptions({ ipc: 'NODE' }), (warm) => warm)).to.equal(undefined);
      expect(pool.status()).to.include({ ready: 1, taken: 0, missed: 0 });
    });

    it('serves no pod by another conflist than the one in force, gives those back, and tries again what fails', async () => {
      const pool = poolOf(2);
      await isReady(pool, 2);
      const old = new Set(attached);
      [conflist, detachFails] = [{ name: 'two' }, true];
      expect(await take(pool)).to.equal(undefined);
      changed();
      await until('it was tried', () => pool.status().ready === 2);
      await sleep(50);
      expect(new Set(attached)).to.deep.equal(old);
      detachFails = false;
      changed();
      await until('they are others', () => attached.size === 2 && [...attached].every((id) => !old.has(id)));
      conflist = undefined;
      changed();
      await isReady(pool, 0);
      expect(attached.size).to.equal(0);
    });

    it('uses what an earlier daemon left whole, and gives back the rest', async () => {
      const first = poolOf(2);
      await isReady(first, 2);
      const [whole, half] = store.values();
      if (whole === undefined || half === undefined) throw new Error('two are ready');
      await store.put(podRecord({ ...half, attachment: undefined as never, conflist }));
      const second = poolOf(1);
      await until('the rest is given back', () => attached.size === 1);
      expect([...attached]).to.deep.equal([whole.id]);
      await isReady(second, 1);
    });

    it('is given back once for all the pods that find no address, and not for another failure', async () => {
      const pool = poolOf(2);
      await isReady(pool, 2);
      fails = () => new ClassifiedError('internal', 'another');
      expect(await pool.attach(newOp('t'), request('other'), conflist).catch((error: Error) => error.message)).to.equal('another');
      expect(attached.size).to.equal(2);
      fails = () => (attached.size < 2 ? undefined : full());
      const two = await Promise.all(['a', 'b'].map((name) => pool.attach(newOp('t'), request(name), conflist)));
      expect(two).to.have.length(2);
      expect([...attached].sort()).to.deep.equal(['a', 'b']);
      expect(await pool.attach(newOp('t'), request('c'), conflist).catch((error: Error) => error.message)).to.equal('full');
      expect(seen.filter((each) => each.startsWith('c '))).to.have.length(1);
      attached.clear();
      changed();
    });

    it('rests after a failure, says why, and leaves nothing of it', async () => {
      fails = () => full();
      const pool = poolOf(2);
      await until('it failed', () => pool.status().failure !== undefined);
      await sleep(50);
      expect(seen).to.have.length(1);
      expect(pool.status()).to.include({ ready: 0, unsettled: 0, failure: 'full' });
      fails = undefined;
      changed();
      await isReady(pool, 2);
      expect(pool.status()).to.not.have.property('failure');
    });

    it('does nothing when none is wanted', async () => {
      const pool = poolOf(0);
      await sleep(600);
      expect(seen).to.deep.equal([]);
      expect(await take(pool)).to.equal(undefined);
      expect(pool.status()).to.deep.equal({ limit: 0, ready: 0, unsettled: 0, taken: 0, missed: 0 });
    });
  });
});
