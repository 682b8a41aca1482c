import { expect } from 'chai';
import type { PodSandboxMetrics__Output } from '../../src/gen/cri/runtime/v1/PodSandboxMetrics.ts';
import type { PodSandboxConfig } from '../../src/gen/cri/runtime/v1/PodSandboxConfig.ts';
import { Bed, eventually } from '../lib/bed.ts';

const CONTAINER_PID = { securityContext: { namespaceOptions: { pid: 'CONTAINER' } } } as const;

/** Figures of pods and containers, on the real daemon: metrics, statistics, pod-level resources. */
describe('metrics', function () {
  this.timeout(60_000);
  let bed: Bed;
  let config: PodSandboxConfig;
  let pod = '';
  let container = '';

  before(async () => {
    bed = await Bed.make();
    config = bed.podConfig('metrics', { linux: CONTAINER_PID });
    pod = await bed.runPod(config);
    container = await bed.runContainer(
      pod,
      config,
      bed.containerConfig(
        'app',
        'dd if=/dev/zero of=/file bs=1024 count=64; i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done; sleep 1000',
        {
          labels: { app: 'one' },
          linux: { resources: { cpuShares: 512, cpuPeriod: 100_000, cpuQuota: 50_000, memoryLimitInBytes: 64 << 20 } },
        },
      ),
    );
  });
  after(async () => {
    await bed?.end();
  });

  const podMetrics = async (): Promise<PodSandboxMetrics__Output> => {
    const { podMetrics: all } = await bed.cri.runtime('listPodSandboxMetrics', {});
    const own = all.find(({ podSandboxId }) => podSandboxId === pod);
    if (own === undefined) throw new Error(`no metrics of ${pod} among ${all.length}`);
    return own;
  };
  /** Series of a name, by the labels that matter: `pod/container`. */
  const values = (from: PodSandboxMetrics__Output, name: string): number[] =>
    [...from.metrics, ...from.containerMetrics.flatMap(({ metrics }) => metrics)]
      .filter((metric) => metric.name === name)
      .map(({ value }) => Number(value?.value));

  it('fit their descriptors, each series once', async () => {
    const { descriptors } = await bed.cri.runtime('listMetricDescriptors', {});
    const keys = new Map(descriptors.map(({ name, labelKeys }) => [name, labelKeys]));
    const own = await podMetrics();
    const seen = new Set<string>();
    for (const { name, labelValues, timestamp } of [...own.metrics, ...own.containerMetrics.flatMap(({ metrics }) => metrics)]) {
      expect(labelValues.length, name).to.equal(keys.get(name)?.length);
      const series = `${name}{${labelValues.join()}}`;
      expect(seen.has(series), series).to.equal(false);
      seen.add(series);
      expect(Math.abs(Number(timestamp) / 1e6 - Date.now()), name).to.be.below(10_000);
    }
    const [first] = own.containerMetrics;
    expect(first?.containerId).to.equal(container);
    const labels = Object.fromEntries(
      (keys.get('container_threads') ?? []).map((key, index) => [
        key,
        first?.metrics.find(({ name }) => name === 'container_threads')?.labelValues[index],
      ]),
    );
    expect(labels).to.include({ name: container, container: 'app', pod: 'metrics', namespace: 'default' });
    expect(labels['id']).to.match(new RegExp(`/${container}$`));
  });

  it("are the container's own figures", async () => {
    const own = await podMetrics();
    const now = Date.now() / 1000;
    expect(values(own, 'container_spec_cpu_shares')).to.deep.equal([512]);
    expect(values(own, 'container_spec_cpu_quota')).to.deep.equal([50_000]);
    expect(values(own, 'container_spec_memory_limit_bytes')).to.deep.equal([64 << 20]);
    expect(values(own, 'container_start_time_seconds')[0]).to.be.within(now - 60, now);
    expect(values(own, 'container_last_seen')[0]).to.be.within(now - 10, now + 1);
    expect(values(own, 'container_processes')[0]).to.be.within(1, 2);
    expect(values(own, 'container_threads')[0]).to.be.within(1, 2);
    expect(values(own, 'container_file_descriptors')[0]).to.be.within(1, 20);
    expect(values(own, 'container_fs_limit_bytes')[0]).to.be.above(1 << 20);
    expect(values(own, 'container_network_receive_bytes_total')).to.have.length(1);
    // Of the pod and of its container.
    const working = values(own, 'container_memory_working_set_bytes');
    expect(working).to.have.length(2);
    for (const bytes of working) expect(bytes).to.be.within(4096, 64 << 20);
    await eventually(
      'the written file counts',
      async () => (values(await podMetrics(), 'container_fs_usage_bytes')[0] ?? 0) >= 65_536,
      15_000,
    );
    await eventually('CPU time counts', async () => values(await podMetrics(), 'container_cpu_user_seconds_total').length === 2);
  });

  it('go when their container ends', async () => {
    const short = await bed.runContainer(pod, config, bed.containerConfig('short', 'sleep 1000'));
    const ids = async (): Promise<string[]> => (await podMetrics()).containerMetrics.map(({ containerId }) => containerId);
    expect(await ids()).to.have.members([container, short]);
    await bed.cri.runtime('stopContainer', { containerId: short, timeout: 0 });
    expect(await ids()).to.deep.equal([container]);
    await bed.cri.runtime('removeContainer', { containerId: short });
  });

  it('statistics: a running container has all that the kernel keeps', async () => {
    const { stats } = await bed.cri.runtime('containerStats', { containerId: container.slice(0, 12) });
    expect(stats?.attributes).to.deep.include({ id: container, labels: { app: 'one' } });
    expect(Number(stats?.memory?.workingSetBytes?.value)).to.be.within(4096, 64 << 20);
    expect(Number(stats?.memory?.availableBytes?.value)).to.be.within(1 << 20, 64 << 20);
    expect(Number(stats?.writableLayer?.usedBytes?.value)).to.be.at.least(65_536);
    expect(Number(stats?.writableLayer?.inodesUsed?.value)).to.be.at.least(1);
    expect(stats?.writableLayer?.fsId?.mountpoint).to.match(/snapshots/);
    await eventually('there is a rate of two readings', async () => {
      const again = await bed.cri.runtime('containerStats', { containerId: container });
      return again.stats?.cpu?.usageNanoCores !== null;
    });
  });

  it('statistics: of a pod, with its interfaces and processes', async () => {
    const { stats } = await bed.cri.runtime('podSandboxStats', { podSandboxId: pod });
    expect(stats?.linux?.network?.defaultInterface?.name).to.equal('eth0');
    expect(stats?.linux?.network?.interfaces.map(({ name }) => name)).to.not.include('eth0');
    expect(Number(stats?.linux?.process?.processCount?.value)).to.be.within(1, 3);
    expect(stats?.linux?.containers.map(({ attributes }) => attributes?.id)).to.deep.equal([container]);
    expect(Number(stats?.linux?.memory?.usageBytes?.value)).to.be.at.least(4096);
  });

  it('statistics: one that has ended keeps its writable layer; filters take beginnings of ids and labels', async () => {
    const ended = await bed.runContainer(
      pod,
      config,
      bed.containerConfig('ended', 'dd if=/dev/zero of=/file bs=1024 count=32', { labels: { app: 'two' } }),
    );
    await eventually('it ends', async () => (await bed.status(ended)).state === 'CONTAINER_EXITED');
    const { stats } = await bed.cri.runtime('containerStats', { containerId: ended });
    expect(stats?.cpu).to.equal(null);
    expect(stats?.memory).to.equal(null);
    expect(Number(stats?.writableLayer?.usedBytes?.value)).to.be.at.least(32_768);

    const ids = async (filter: object): Promise<Array<string | undefined>> =>
      (await bed.cri.runtime('listContainerStats', { filter })).stats.map(({ attributes }) => attributes?.id);
    expect(await ids({})).to.have.members([container, ended]);
    expect(await ids({ id: ended.slice(0, 13) })).to.deep.equal([ended]);
    expect(await ids({ podSandboxId: pod.slice(0, 13) })).to.have.members([container, ended]);
    expect(await ids({ labelSelector: { app: 'one' } })).to.deep.equal([container]);
    expect(await ids({ labelSelector: { app: 'one' }, id: ended })).to.deep.equal([]);
    const pods = async (filter: object): Promise<Array<string | undefined>> =>
      (await bed.cri.runtime('listPodSandboxStats', { filter })).stats.map(({ attributes }) => attributes?.id);
    expect(await pods({ id: pod.slice(0, 13) })).to.deep.equal([pod]);
    expect(await pods({ labelSelector: { test: 'another' } })).to.deep.equal([]);
    await bed.cri.runtime('removeContainer', { containerId: ended });
  });

  it('stream what they list', async () => {
    const containers = await bed.cri.stream('streamContainerStats', {});
    expect(containers.flatMap(({ containerStats }) => containerStats.map(({ attributes }) => attributes?.id))).to.deep.equal([container]);
    const pods = await bed.cri.stream('streamPodSandboxStats', {});
    expect(pods.flatMap(({ podSandboxStats }) => podSandboxStats.map(({ attributes }) => attributes?.id))).to.deep.equal([pod]);
    const metrics = await bed.cri.stream('streamPodSandboxMetrics', {});
    const names = (all: readonly PodSandboxMetrics__Output[]): string[] => [
      ...new Set(
        all.flatMap(({ metrics: own, containerMetrics }) =>
          [...own, ...containerMetrics.flatMap((each) => each.metrics)].map(({ name }) => name),
        ),
      ),
    ];
    expect(names(metrics.flatMap(({ podSandboxMetrics }) => podSandboxMetrics))).to.have.members(names([await podMetrics()]));
  });
});
