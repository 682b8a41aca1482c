import { expect } from 'chai';
import { existsSync as exists, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { ServiceError } from '@grpc/grpc-js';
import { status as Code } from '@grpc/grpc-js';
import type { PodSandboxConfig } from '../../../src/gen/cri/runtime/v1/PodSandboxConfig.ts';
import { Bed, eventually } from '../../lib/bed.ts';
import { addresses, failure, Faulty, faultyPlugin, remains } from '../../lib/faults.ts';
import { pluginDir } from '../../lib/gantry.ts';

const PATIENCE_SECONDS = 1;
const CLIENT_MS = 2000;

/** CNI plugins that stall, fail and forget: one pod at most, and no address stays (R1, R3). */
describe('faults: network', function () {
  this.timeout(60_000);
  let dir: string;
  let bridge: Faulty;
  let portmap: Faulty;
  let bed: Bed;

  before(async () => {
    dir = mkdtempSync(join(tmpdir(), 'plugins-'));
    bridge = faultyPlugin(dir, 'bridge');
    portmap = new Faulty(dir, join(pluginDir(), 'portmap'));
    // What a plugin does to pods that take the plain path; pool.test.ts has what it does to the others.
    const config = `operation.patience_seconds = ${PATIENCE_SECONDS}\nsandbox.warm = 0\n`;
    bed = await Bed.make({ subnet: 20, pluginDir: dir, config });
  });
  afterEach('leaves nothing', async () => {
    bridge.heal();
    portmap.heal();
    await eventually('nothing is left', async () => {
      await bed.gantry.removePods();
      return remains(bed.gantry).length === 0;
    }).catch((error: unknown) => {
      throw new Error(remains(bed.gantry).join('\n'), { cause: error });
    });
  });
  after(async () => {
    await bed.end();
    rmSync(dir, { recursive: true });
  });

  const podConfig = (name: string, change: PodSandboxConfig = {}): PodSandboxConfig =>
    bed.podConfig(name, { ...change, linux: { securityContext: { namespaceOptions: { pid: 'CONTAINER' } } } });
  const run = (config: PodSandboxConfig, timeoutMs?: number) => bed.cri.runtime('runPodSandbox', { config }, timeoutMs);
  const pods = async () => (await bed.cri.runtime('listPodSandbox', {})).items;

  it('R1: retries with 2 s join a run whose CNI takes 5 s; the error names the stage and its age', async () => {
    bridge.inject(`[ $CNI_COMMAND != ADD ] || { ${bridge.stall(5)}; }`);
    const config = podConfig('stalled');
    const errors: ServiceError[] = [];
    let id: string | undefined;
    while (id === undefined && errors.length < 20) {
      expect(await pods(), 'what nobody has collected is not seen').to.deep.equal([]);
      await run(config, CLIENT_MS).then(
        (answer) => (id = answer.podSandboxId),
        (error: unknown) => errors.push(error as ServiceError),
      );
    }
    expect(
      errors.map(({ code }) => Code[code]),
      errors.map(({ details }) => details).join(),
    ).to.deep.equal(['DEADLINE_EXCEEDED', 'DEADLINE_EXCEEDED']);
    for (const { details } of errors) expect(details).to.match(/at stage network after \d{4} ms/);
    expect((await pods()).map((pod) => `${pod.id} ${pod.state}`)).to.deep.equal([`${id} SANDBOX_READY`]);
    expect(addresses(bed.gantry)).to.have.length(1);
  });

  it('R1: a pod that nobody comes back for is torn down; who comes during that gets a new one', async () => {
    bridge.inject(`[ $CNI_COMMAND != ADD ] || { ${bridge.stall(1)}; }`);
    const config = podConfig('abandoned');
    await failure(run(config, 500));
    await eventually('the network is up', () => addresses(bed.gantry).length === 1);
    bridge.inject(`[ $CNI_COMMAND != DEL ] || { echo $CNI_COMMAND >>${dir}/deleting; ${bridge.stall(2)}; }`);
    await eventually('the undo has begun', () => exists(`${dir}/deleting`));
    expect(await pods()).to.deep.equal([]);
    const { podSandboxId } = await run(config);
    expect((await pods()).map(({ id }) => id)).to.deep.equal([podSandboxId]);
    expect(addresses(bed.gantry)).to.have.length(1);
  });

  it('R3: a plugin that adds after its client has gone, and nobody comes back: no address stays', async () => {
    bridge.inject(`[ $CNI_COMMAND != ADD ] || { ${bridge.stall(2)}; }`);
    expect((await failure(run(podConfig('late'), 1000))).code).to.equal(Code.DEADLINE_EXCEEDED);
    await eventually('ADD is done', () => addresses(bed.gantry).length === 1);
    await eventually('it is undone', () => remains(bed.gantry).length === 0);
    expect(await pods()).to.deep.equal([]);
  });

  it('R3: ADD fails: the error has the plugin and its words, no sandbox is listed', async () => {
    bridge.inject(`[ $CNI_COMMAND != ADD ] || { echo '{"code": 7, "msg": "no more", "details": "veths"}'; exit 1; }`);
    const { details } = await failure(run(podConfig('fails')));
    expect(details).to.match(/"bridge" add: no more: veths/);
    expect(await pods()).to.deep.equal([]);
    expect(remains(bed.gantry)).to.deep.equal([]);
  });

  it('R3: ADD fails after it took an address, and so do the first two DELs: the sandbox is listed NotReady, stop and remove finish it', async () => {
    bridge.inject(`
      case $CNI_COMMAND in
        ADD) ${join(pluginDir(), 'bridge')} >/dev/null; echo '{"code": 7, "msg": "half done"}'; exit 1 ;;
        DEL) echo . >>${dir}/dels; [ $(wc -l <${dir}/dels) -gt 2 ] || { echo '{"code": 11, "msg": "not now"}'; exit 1; } ;;
      esac`);
    expect((await failure(run(podConfig('undeletable')))).details).to.match(/half done/);
    expect(addresses(bed.gantry)).to.have.length(1);
    const [pod, ...more] = await pods();
    expect(more).to.deep.equal([]);
    expect(pod?.state).to.equal('SANDBOX_NOTREADY');
    expect(pod?.metadata?.name).to.equal('undeletable');
    await bed.cri.runtime('stopPodSandbox', { podSandboxId: pod?.id ?? '' });
    expect(addresses(bed.gantry)).to.deep.equal([]);
    await bed.cri.runtime('removePodSandbox', { podSandboxId: pod?.id ?? '' });
    expect(remains(bed.gantry)).to.deep.equal([]);
  });

  it('R3: StopPodSandbox whose DEL fails says so and is finished by the next', async () => {
    const { podSandboxId } = await run(podConfig('stop'));
    bridge.inject(`[ $CNI_COMMAND != DEL ] || { echo '{"code": 11, "msg": "not now"}'; exit 1; }`);
    expect((await failure(bed.cri.runtime('stopPodSandbox', { podSandboxId }))).details).to.match(/"bridge" del: not now/);
    expect((await failure(bed.cri.runtime('removePodSandbox', { podSandboxId }))).details).to.match(/not now/);
    expect((await pods()).map(({ id, state }) => `${id} ${state}`)).to.deep.equal([`${podSandboxId} SANDBOX_NOTREADY`]);
    bridge.heal();
    await bed.cri.runtime('stopPodSandbox', { podSandboxId });
    await bed.cri.runtime('removePodSandbox', { podSandboxId });
    expect(remains(bed.gantry)).to.deep.equal([]);
  });

  it('R3: the second plugin of the chain fails: the first is DELed', async () => {
    portmap.inject(`[ $CNI_COMMAND != ADD ] || { echo '{"code": 9, "msg": "port taken"}'; exit 1; }`);
    const config = podConfig('second', { portMappings: [{ containerPort: 80, hostPort: 18080, protocol: 'TCP' }] });
    expect((await failure(run(config))).details).to.match(/"portmap" add: port taken/);
    expect(remains(bed.gantry)).to.deep.equal([]);
  });

  for (const [when, script] of [
    ['before it has begun', (stall: string) => stall],
    // It holds the namespace as a plugin does in the middle of its work, and goes on after any DEL.
    ['in the middle', (stall: string) => `exec 9<$CNI_NETNS; CNI_NETNS=/proc/$$/fd/9; export CNI_NETNS; ${stall}`],
  ] as const) {
    it(`R3: the daemon is killed during ADD, ${when}: nothing of it stays`, async () => {
      bridge.inject(`[ $CNI_COMMAND != ADD ] || { echo . >>${dir}/adding; ${script(bridge.stall(2))}; }`);
      rmSync(`${dir}/adding`, { force: true });
      const asked = failure(run(podConfig('killed')));
      await eventually('ADD runs', () => exists(`${dir}/adding`));
      await bed.gantry.kill();
      await asked;
      await bed.gantry.start();
      await eventually('the pod is undone', async () => remains(bed.gantry).length === 0);
      await sleep(2000);
      expect(remains(bed.gantry)).to.deep.equal([]);
      expect(await pods()).to.deep.equal([]);
    });
  }
});
