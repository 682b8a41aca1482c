import type { Metric } from '../../gen/cri/runtime/v1/Metric.ts';
import type { MetricDescriptor } from '../../gen/cri/runtime/v1/MetricDescriptor.ts';
import type { PodSandboxMetrics } from '../../gen/cri/runtime/v1/PodSandboxMetrics.ts';
import type { ContainerRecord } from '../../container/record.ts';
import { podPaths } from '../../sandbox/paths.ts';
import type { PodSandboxRecord } from '../../sandbox/record.ts';
import { podCgroupPath, usesHostNetwork } from '../../sandbox/record.ts';
import { BASE_LABELS, CONTAINER_FAMILIES, NETWORK_FAMILIES } from '../../stats/metric-families.ts';
import type { MeasuredContainer, MeasuredPod, MetricValue, PodMetrics } from '../../stats/pod-metrics.ts';

/** Every metric that may appear; the pod's own families are among the containers'. */
export const metricDescriptors = (): MetricDescriptor[] =>
  [...CONTAINER_FAMILIES, ...NETWORK_FAMILIES].map(({ name, help, labels }) => ({ name, help, labelKeys: [...BASE_LABELS, ...labels] }));

const metricView = ({ family, labels, value, timestampNs }: MetricValue): Metric => ({
  name: family.name,
  timestamp: String(timestampNs),
  metricType: family.type,
  labelValues: [...labels],
  value: { value: String(value) },
});

export const podMetricsView = ({ sandboxId, metrics, containers }: PodMetrics): PodSandboxMetrics => ({
  podSandboxId: sandboxId,
  metrics: metrics.map(metricView),
  containerMetrics: containers.map((container) => ({ containerId: container.containerId, metrics: container.metrics.map(metricView) })),
});

/** Records -> what `stats/pod-metrics` measures: the containers that run. */
export function measuredPod(stateDir: string, sandbox: PodSandboxRecord, containers: readonly ContainerRecord[]): MeasuredPod {
  const { id, config } = sandbox;
  return {
    id,
    name: config.metadata?.name ?? '',
    namespace: config.metadata?.namespace ?? '',
    cgroupPath: podCgroupPath(sandbox),
    netnsPath: usesHostNetwork(config) ? undefined : `${podPaths(stateDir, id).namespaces}/net`,
    containers: containers.flatMap(measuredContainer),
  };
}

function measuredContainer({ id, state, cgroupPath, process, config, startedAtNs, resources }: ContainerRecord): MeasuredContainer[] {
  if (state !== 'running' || cgroupPath === '' || process === undefined) return [];
  const image = config.image?.userSpecifiedImage || config.image?.image || '';
  const name = config.metadata?.name ?? '';
  return [{ id, name, image, cgroupPath, pid: process.init.pid, startedAtNs: BigInt(startedAtNs), resources, config }];
}
