import { readFileSync } from 'node:fs';
import { expect } from 'chai';
import { Bed } from '../lib/bed.ts';

const INVALID_ARGUMENT = 3;

/** What the daemon says about itself: Version, Status, RuntimeConfig. */
describe('status', function () {
  this.timeout(60_000);
  let bed: Bed;
  before(async () => {
    bed = await Bed.make();
  });
  after(async () => {
    await bed?.end();
  });

  it('version is that of the package', async () => {
    const { version } = JSON.parse(readFileSync(new URL('../../package.json', import.meta.url), 'utf8')) as { version: string };
    expect(await bed.cri.runtime('version', { version: '0.1.0' })).to.deep.equal({
      version: '0.1.0',
      runtimeName: 'gantry',
      runtimeVersion: version,
      runtimeApiVersion: 'v1',
    });
  });

  it('tells conditions and handlers; configuration and operations only when asked', async () => {
    const short = await bed.cri.runtime('status', {});
    expect(short.info).to.deep.equal({});
    expect(short.status?.conditions.map(({ type, status }) => [type, status])).to.deep.equal([
      ['RuntimeReady', true],
      ['NetworkReady', true],
    ]);
    // Kubelet looks the default handler up under "".
    expect(short.runtimeHandlers.map(({ name }) => name)).to.include.members(['', 'runc']);
    expect(short.features?.supplementalGroupsPolicy).to.equal(true);
    const { info } = await bed.cri.runtime('status', { verbose: true });
    const config = JSON.parse(info['config'] ?? '') as {
      config: { root: string; socket: string };
      cgroups: string;
      snapshotter: { usage: { by: string; why?: string } };
    };
    const { by, why } = config.snapshotter.usage;
    expect([by, why === undefined]).to.deep.equal(why === undefined ? ['project quota', true] : ['walk', false]);
    expect(config.config).to.include({ root: bed.gantry.root, socket: bed.gantry.socket });
    expect(config.cgroups).to.be.oneOf(['v1', 'v2', 'hybrid']);
    expect(JSON.parse(info['operations'] ?? '')).to.deep.equal({ runPodSandbox: [], createContainer: [] });
  });

  it('shows a run in flight with its stage and age', async () => {
    type InFlight = { key: string; stage: string; ageMs: number };
    let seen: InFlight[] = [];
    // A run may be over before it is looked at.
    for (let index = 0; seen.length === 0 && index < 20; index++) {
      let over = false;
      const config = bed.podConfig(`slow-${index}`, { linux: { securityContext: { namespaceOptions: { pid: 'CONTAINER' } } } });
      const running = bed.runPod(config).finally(() => (over = true));
      while (!over && seen.length === 0) {
        const { info } = await bed.cri.runtime('status', { verbose: true });
        seen = (JSON.parse(info['operations'] ?? '') as { runPodSandbox: InFlight[] }).runPodSandbox;
      }
      await running;
    }
    const [operation] = seen;
    expect(operation?.key).to.match(/^default\/slow-(\d+)\/uid-slow-\1\/0$/);
    expect(operation?.stage).to.match(/^[a-z ]+$/);
    expect(operation?.ageMs).to.be.within(0, 10_000);
  });

  it('takes a pod CIDR and refuses what is none', async () => {
    expect((await bed.cri.runtime('runtimeConfig', {})).linux?.cgroupDriver).to.equal('CGROUPFS');
    const update = (podCidr: string) => bed.cri.runtime('updateRuntimeConfig', { runtimeConfig: { networkConfig: { podCidr } } });
    expect(await update('10.244.0.0/24,fd00::/64')).to.deep.equal({});
    const code = await update('everything').then(
      () => 0,
      (error: { code: number }) => error.code,
    );
    expect(code).to.equal(INVALID_ARGUMENT);
  });
});
