import { expect } from 'chai';
import { closeSync, mkdtempSync, openSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { ServiceError } from '@grpc/grpc-js';
import { status as Code } from '@grpc/grpc-js';
import type { ContainerConfig } from '../../../src/gen/cri/runtime/v1/ContainerConfig.ts';
import type { PodSandboxConfig } from '../../../src/gen/cri/runtime/v1/PodSandboxConfig.ts';
import { mountsUnder } from '../../../src/os/mount.ts';
import { Bed, eventually } from '../../lib/bed.ts';
import type { Faulty } from '../../lib/faults.ts';
import { failure, faultyProgram, faultyRuntime, HungPath, percentile, remains } from '../../lib/faults.ts';

const CLIENT_MS = 2000;
const FOREVER = 'trap exit TERM; sleep 1000 & wait';

/** A runtime, a host path, an unmount that take their time: who waits for them waits alone (R1, R2, R13, R28). */
describe('faults: stalls', function () {
  this.timeout(60_000);
  let dir: string;
  let runtime: Faulty;
  let realpath: Faulty;
  let umount: Faulty;
  let bed: Bed;
  let config: PodSandboxConfig;
  let pod: string;

  before(async () => {
    dir = mkdtempSync(join(tmpdir(), 'programs-'));
    runtime = faultyRuntime(join(dir, 'runtime'));
    realpath = faultyProgram(join(dir, 'bin'), 'realpath');
    umount = faultyProgram(join(dir, 'bin'), 'umount');
    bed = await Bed.make({
      subnet: 21,
      env: { PATH: `${join(dir, 'bin')}:${process.env['PATH']}` },
      flags: ['--handler', `faulty=${runtime.path}`],
      config: 'operation.patience_seconds = 1\n',
    });
  });
  beforeEach(async () => {
    config = podConfig('stalls');
    pod = await bed.runPod(config, 'faulty');
  });
  afterEach('leaves nothing', async () => {
    for (const each of [runtime, realpath, umount]) each.heal();
    await bed.gantry.removePods();
    expect(remains(bed.gantry)).to.deep.equal([]);
  });
  after(async () => {
    await bed.end();
    rmSync(dir, { recursive: true });
  });

  const podConfig = (name: string): PodSandboxConfig =>
    bed.podConfig(name, { linux: { securityContext: { namespaceOptions: { pid: 'CONTAINER' } } } });
  const create = (container: ContainerConfig, timeoutMs?: number) =>
    bed.cri.runtime('createContainer', { podSandboxId: pod, config: container, sandboxConfig: config }, timeoutMs);
  const containers = async () => (await bed.cri.runtime('listContainers', {})).containers;
  const mounting = (name: string, hostPath: string): ContainerConfig =>
    bed.containerConfig(name, FOREVER, { mounts: [{ hostPath, containerPath: '/data' }] });

  async function createdByRetries(container: ContainerConfig): Promise<{ id: string; errors: ServiceError[] }> {
    const errors: ServiceError[] = [];
    while (errors.length < 20) {
      expect(await containers(), 'what nobody has collected is not seen').to.deep.equal([]);
      const answer = await create(container, CLIENT_MS).catch((error: unknown) => void errors.push(error as ServiceError));
      if (answer) return { id: answer.containerId, errors };
    }
    throw errors.at(-1) ?? new Error('no try');
  }

  for (const [stage, stall] of [
    ['runtime create', () => runtime.inject(`[ "$verb" != create ] || { ${runtime.stall(5)}; }`)],
    ['snapshot', () => realpath.inject(realpath.stall(5))],
  ] as const) {
    it(`R1: retries with 2 s join a create that takes 5 s at stage ${stage}`, async () => {
      stall();
      const { id, errors } = await createdByRetries(mounting('slow', '/tmp'));
      expect(errors.map(({ code }) => Code[code])).to.deep.equal(['DEADLINE_EXCEEDED', 'DEADLINE_EXCEEDED']);
      for (const { details } of errors) expect(details).to.match(new RegExp(`at stage ${stage} after \\d{4} ms`));
      expect((await containers()).map((each) => `${each.id} ${each.state}`)).to.deep.equal([`${id} CONTAINER_CREATED`]);
      await bed.cri.runtime('startContainer', { containerId: id });
      expect((await bed.status(id)).state).to.equal('CONTAINER_RUNNING');
    });
  }

  it('R1: a container that nobody comes back for is torn down', async () => {
    runtime.inject(`[ "$verb" != create ] || { ${runtime.stall(1)}; }`);
    const before = remains(bed.gantry).length;
    expect((await failure(create(bed.containerConfig('abandoned', FOREVER), 500))).code).to.equal(Code.DEADLINE_EXCEEDED);
    await eventually('it is made', () => remains(bed.gantry).some((each) => each.startsWith('runtime/faulty/root/')));
    await eventually('it is gone', () => remains(bed.gantry).length === before);
    expect(await containers()).to.deep.equal([]);
  });

  it('R1: the pod can be removed while a create below it is stuck in the runtime', async () => {
    runtime.inject(`[ "$verb" != create ] || { ${runtime.stall(60)}; }`);
    const stuck = failure(create(bed.containerConfig('stuck', FOREVER), 30_000));
    await eventually('the runtime is stuck', () => remains(bed.gantry).some((each) => /^process .* create .*/.test(each)));
    await bed.cri.runtime('stopPodSandbox', { podSandboxId: pod });
    await bed.cri.runtime('removePodSandbox', { podSandboxId: pod });
    await stuck;
    expect(remains(bed.gantry)).to.deep.equal([]);
  });

  it('R2, R13: creates at a path that never answers, a stuck runtime and a stuck unmount: everybody else is served at once', async function () {
    await using hung = new HungPath(join(dir, 'hung'));
    const other = podConfig('other');
    const otherPod = await bed.runPod(other, 'faulty');
    const leaving = await bed.runContainer(otherPod, other, bed.containerConfig('leaving', FOREVER));
    const startedMs = Date.now();
    const creates = Array.from({ length: 12 }, (_, n) =>
      failure(create(mounting(`hung-${n}`, n % 2 === 0 ? hung.path : join(hung.path, 'x')))),
    );
    runtime.inject(`case "$verb $*" in create*) ${runtime.stall(15)} ;; esac`);
    umount.inject(umount.stall(8));
    const slow = bed.cri.runtime('createContainer', {
      podSandboxId: otherPod,
      config: bed.containerConfig('slow', FOREVER),
      sandboxConfig: other,
    });
    const removal = bed.cri.runtime('removeContainer', { containerId: leaving });

    const timesMs: number[] = [];
    for (let n = 0; n < 200; n++) {
      const fromMs = performance.now();
      await bed.cri.runtime(n % 2 === 0 ? 'listContainers' : 'listPodSandbox', {});
      timesMs.push(performance.now() - fromMs);
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
    const fromMs = performance.now();
    const third = podConfig('third');
    await bed.cri.runtime('version', {});
    const started = await bed.runContainer(await bed.runPod(third), third, bed.containerConfig('quick', FOREVER));
    const startMs = performance.now() - fromMs;
    expect((await bed.status(started)).state).to.equal('CONTAINER_RUNNING');
    expect(Date.now() - startedMs, 'all of this happened while they were stuck').to.be.below(12_000);
    const [p50, p99] = [percentile(timesMs, 0.5), percentile(timesMs, 0.99)];
    console.log(`      200 lists: p50 ${p50.toFixed(1)} ms, p99 ${p99.toFixed(1)} ms; a pod and its container: ${startMs.toFixed(0)} ms`);
    expect(p99).to.be.below(100);
    expect(startMs).to.be.below(3000);

    await removal;
    umount.heal();
    await slow;
    for (const { code, details } of await Promise.all(creates)) {
      expect(Code[code]).to.equal('DEADLINE_EXCEEDED');
      expect(details).to.match(/config\.mounts\[0\]\.host_path .*hung/);
    }
    expect(Date.now() - startedMs).to.be.below(30_000);
    expect((await containers()).map(({ metadata }) => metadata?.name)).to.have.members(['slow', 'quick']);
  });

  describe('R28', () => {
    let id: string;
    const remove = (timeoutMs?: number) => bed.cri.runtime('removeContainer', { containerId: id }, timeoutMs);
    const rootfs = (): string => join(bed.gantry.state, 'containers', id, 'rootfs');
    beforeEach(async () => {
      id = await bed.runContainer(pod, config, bed.containerConfig('mounted', FOREVER));
    });

    it('a rootfs that is busy is detached', async () => {
      const held = openSync(join(rootfs(), 'bin'), 'r');
      try {
        await remove();
        expect(mountsUnder(rootfs())).to.deep.equal([]);
      } finally {
        closeSync(held);
      }
    });

    it('an unmount that fails leaves the container listed with its reason, and the next removal does the rest', async () => {
      umount.inject('echo "umount: no such luck" >&2; exit 32');
      expect((await failure(remove())).details).to.match(/unmount .*no such luck/);
      expect((await containers()).map((each) => `${each.id} ${each.state}`)).to.deep.equal([`${id} CONTAINER_EXITED`]);
      expect(JSON.stringify((await bed.fullStatus(id)).info)).to.include('no such luck');
      expect(mountsUnder(rootfs())).to.deep.equal([rootfs()]);
      umount.heal();
      await remove();
      expect(await containers()).to.deep.equal([]);
    });

    it('an unmount that hangs costs its own call only', async () => {
      umount.inject(umount.stall(30));
      expect((await failure(remove(1000))).code).to.equal(Code.DEADLINE_EXCEEDED);
      expect((await containers()).map((each) => each.id)).to.deep.equal([id]);
      umount.heal();
      await remove();
      expect(await containers()).to.deep.equal([]);
    });
  });
});
