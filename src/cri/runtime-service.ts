import { ClassifiedError } from '../base/errors.ts';
import { nowNs } from '../base/ids.ts';
import { createContainer } from '../container/create.ts';
import { execSync } from '../container/exec.ts';
import { findContainer, listContainers } from '../container/list.ts';
import { removeContainer } from '../container/remove.ts';
import { reopenContainerLog } from '../container/reopen-log.ts';
import { runningContainer } from '../container/running.ts';
import { startContainer } from '../container/start.ts';
import { stopContainer } from '../container/stop.ts';
import { updateContainerResources } from '../container/update.ts';
import type { ContainerStatsFilter__Output } from '../gen/cri/runtime/v1/ContainerStatsFilter.ts';
import type { ContainerStatsRequest__Output } from '../gen/cri/runtime/v1/ContainerStatsRequest.ts';
import type { ContainerStatusRequest__Output } from '../gen/cri/runtime/v1/ContainerStatusRequest.ts';
import type { PodSandboxStatsFilter__Output } from '../gen/cri/runtime/v1/PodSandboxStatsFilter.ts';
import type { PodSandboxStatsRequest__Output } from '../gen/cri/runtime/v1/PodSandboxStatsRequest.ts';
import type { RemoveContainerRequest__Output } from '../gen/cri/runtime/v1/RemoveContainerRequest.ts';
import type { RemovePodSandboxRequest__Output } from '../gen/cri/runtime/v1/RemovePodSandboxRequest.ts';
import type { ReopenContainerLogRequest__Output } from '../gen/cri/runtime/v1/ReopenContainerLogRequest.ts';
import type { StartContainerRequest__Output } from '../gen/cri/runtime/v1/StartContainerRequest.ts';
import type { StopPodSandboxRequest__Output } from '../gen/cri/runtime/v1/StopPodSandboxRequest.ts';
import type { ContainerRecord } from '../container/record.ts';
import type { PodSandboxRecord } from '../sandbox/record.ts';
import { findPodSandbox, listPodSandboxes } from '../sandbox/list.ts';
import { readyPodSandbox } from '../sandbox/port-forward.ts';
import { removePodSandbox } from '../sandbox/remove.ts';
import { runPodSandbox } from '../sandbox/run.ts';
import { stopPodSandbox } from '../sandbox/stop.ts';
import { updatePodSandboxResources } from '../sandbox/update.ts';
import { podMetrics } from '../stats/pod-metrics.ts';
import { inChunks, viewsOf } from './chunks.ts';
import type { ServiceDeps } from './deps.ts';
import { OfRecords } from './of-records.ts';
import type { RuntimeRows } from './server.ts';
import { serverStream } from './server-stream.ts';
import { unary } from './unary.ts';
import * as validate from './validate/index.ts';
import { containerStatusView, containerView } from './view/container.ts';
import { measuredPod, metricDescriptors, podMetricsView } from './view/metrics.ts';
import { podSandboxStatusView, podSandboxView } from './view/sandbox.ts';
import { containerStatsView, podSandboxStatsView } from './view/stats.ts';
import { statusView } from './view/status.ts';
import { verboseContainer, verboseSandbox } from './view/verbose.ts';
import { RUNTIME_NAME, RUNTIME_VERSION } from './version.ts';

/** CRI RuntimeService: one row per RPC, from validator to use case to view. What has no row answers Unimplemented. */
export function runtimeService({ sandboxes, containers, events, status, stats, streams }: ServiceDeps): RuntimeRows {
  const containersOf = (sandboxId: string) => listContainers(containers, null).filter((record) => record.sandboxId === sandboxId);
  // For lists of pods: once over all containers, not once per pod.
  const containersByPod = () => Map.groupBy(listContainers(containers, null), (record) => record.sandboxId);
  const sandboxId = (id: string): string => fullId(() => findPodSandbox(sandboxes, id), id);
  const containerId = (id: string): string => fullId(() => findContainer(containers, id), id);
  const statsFor = (filter: ContainerStatsFilter__Output | null) =>
    listContainers(containers, {
      id: filter?.id ?? '',
      state: null,
      podSandboxId: filter?.podSandboxId ?? '',
      labelSelector: filter?.labelSelector ?? {},
    });
  const statsView = (record: ContainerRecord) => containerStatsView(stats, record);
  const podStatsView = () => {
    const byPod = containersByPod();
    return (record: PodSandboxRecord) => podSandboxStatsView(stats, record, byPod.get(record.id) ?? []);
  };
  const metricsView = () => {
    const byPod = containersByPod();
    return async (record: PodSandboxRecord) =>
      podMetricsView(await podMetrics(stats, measuredPod(stats.stateDir, record, byPod.get(record.id) ?? [])));
  };
  return {
    Version: unary(validate.version, () => ({
      version: '0.1.0',
      runtimeName: RUNTIME_NAME,
      runtimeVersion: RUNTIME_VERSION,
      runtimeApiVersion: 'v1',
    })),
    Status: unary(validate.status, (_op, { verbose }) => statusView(status, verbose)),
    RuntimeConfig: unary(validate.runtimeConfig, () => ({ linux: { cgroupDriver: status.cgroupDriver } })),
    // The conflist on the machine says which addresses pods get; a CIDR is for runtimes that write one themselves (kubenet, CNI templates).
    UpdateRuntimeConfig: unary(validate.updateRuntimeConfig, (op, { podCidr }) => {
      op.log.info({ podCidr }, 'the pod CIDR of the node is noted; the CNI configuration stands');
      return {};
    }),

    RunPodSandbox: unary(validate.runPodSandbox, async (op, { config, runtimeHandler }) => ({
      podSandboxId: await runPodSandbox(sandboxes, op, config, runtimeHandler),
    })),
    StopPodSandbox: unary(validate.podSandboxId<StopPodSandboxRequest__Output>, async (op, { podSandboxId }) => {
      await stopPodSandbox(sandboxes, op, sandboxId(podSandboxId));
      return {};
    }),
    RemovePodSandbox: unary(validate.podSandboxId<RemovePodSandboxRequest__Output>, async (op, { podSandboxId }) => {
      await removePodSandbox(sandboxes, op, sandboxId(podSandboxId));
      return {};
    }),
    PodSandboxStatus: unary(validate.podSandboxStatus, (_op, { podSandboxId, verbose }) => {
      const record = findPodSandbox(sandboxes, podSandboxId);
      return {
        status: podSandboxStatusView(record),
        info: verbose ? verboseSandbox(record) : {},
        containersStatuses: containersOf(record.id).map(containerStatusView),
        timestamp: String(nowNs()),
      };
    }),
    ListPodSandbox: unary(validate.listPodSandbox, (_op, { filter }) =>
      OfRecords.from(listPodSandboxes(sandboxes, filter), (record) => ({ items: [podSandboxView(record)] })),
    ),
    StreamPodSandboxes: serverStream(validate.streamPodSandboxes, (_op, { filter }) =>
      inChunks(listPodSandboxes(sandboxes, filter), podSandboxView, (podSandboxes) => ({ podSandboxes })),
    ),

    UpdatePodSandboxResources: unary(validate.updatePodSandboxResources, async (op, { podSandboxId, overhead, resources }) => {
      await updatePodSandboxResources(sandboxes, op, podSandboxId, { overhead, resources });
      return {};
    }),

    CreateContainer: unary(validate.createContainer, async (op, { podSandboxId, config }) => ({
      containerId: await createContainer(containers, op, sandboxId(podSandboxId), config),
    })),
    StartContainer: unary(validate.containerId<StartContainerRequest__Output>, async (op, request) => {
      await startContainer(containers, op, request.containerId);
      return {};
    }),
    StopContainer: unary(validate.stopContainer, async (op, request) => {
      await stopContainer(containers, op, request.containerId, request.timeoutMs);
      return {};
    }),
    RemoveContainer: unary(validate.containerId<RemoveContainerRequest__Output>, async (op, request) => {
      await removeContainer(containers, op, containerId(request.containerId));
      return {};
    }),
    ListContainers: unary(validate.listContainers, (_op, { filter }) =>
      OfRecords.from(listContainers(containers, filter), (record) => ({ containers: [containerView(record)] })),
    ),
    StreamContainers: serverStream(validate.streamContainers, (_op, { filter }) =>
      inChunks(listContainers(containers, filter), containerView, (part) => ({ containers: part })),
    ),
    ContainerStatus: unary(validate.containerId<ContainerStatusRequest__Output>, (_op, request) => {
      const record = findContainer(containers, request.containerId);
      if (request.verbose) return { status: containerStatusView(record), info: verboseContainer(record, containers.stateDir) };
      return OfRecords.from([record], (each) => ({ status: containerStatusView(each) }));
    }),
    UpdateContainerResources: unary(validate.updateContainerResources, async (op, request) => {
      await updateContainerResources(containers, op, request.containerId, request.linux);
      return {};
    }),
    ReopenContainerLog: unary(validate.containerId<ReopenContainerLogRequest__Output>, async (op, request) => {
      await reopenContainerLog(containers, op, request.containerId);
      return {};
    }),
    ExecSync: unary(validate.execSync, async (op, request) => {
      const { stdout, stderr, exitCode } = await execSync(containers, op, request.containerId, {
        command: request.cmd,
        timeoutMs: request.timeoutMs,
      });
      return { stdout, stderr, exitCode };
    }),
    Exec: unary(validate.exec, (_op, request) => {
      const { id } = runningContainer(containers, request.containerId, 'exec in');
      return { url: streams.execUrl({ ...request, containerId: id }) };
    }),
    Attach: unary(validate.attach, (_op, request) => {
      const { id } = runningContainer(containers, request.containerId, 'attach to');
      return { url: streams.attachUrl({ ...request, containerId: id }) };
    }),
    PortForward: unary(validate.portForward, (_op, request) => {
      const { id } = readyPodSandbox(sandboxes, request.podSandboxId, 'forward ports of');
      return { url: streams.portForwardUrl({ ...request, podSandboxId: id }) };
    }),

    ContainerStats: unary(validate.containerId<ContainerStatsRequest__Output>, async (_op, request) => ({
      stats: await containerStatsView(stats, findContainer(containers, request.containerId)),
    })),
    ListContainerStats: unary(validate.listContainerStats, async (_op, { filter }) => ({
      stats: await viewsOf(statsFor(filter), statsView),
    })),
    StreamContainerStats: serverStream(validate.streamContainerStats, (_op, { filter }) =>
      inChunks(statsFor(filter), statsView, (containerStats) => ({ containerStats })),
    ),
    PodSandboxStats: unary(validate.podSandboxId<PodSandboxStatsRequest__Output>, async (_op, request) => {
      const record = findPodSandbox(sandboxes, request.podSandboxId);
      return { stats: await podSandboxStatsView(stats, record, containersOf(record.id)) };
    }),
    ListPodSandboxStats: unary(validate.listPodSandboxStats, async (_op, { filter }) => ({
      stats: await viewsOf(readyOnes(sandboxes, filter), podStatsView()),
    })),
    StreamPodSandboxStats: serverStream(validate.streamPodSandboxStats, (_op, { filter }) =>
      inChunks(readyOnes(sandboxes, filter), podStatsView(), (podSandboxStats) => ({ podSandboxStats })),
    ),
    ListMetricDescriptors: unary(validate.listMetricDescriptors, () => ({ descriptors: metricDescriptors() })),
    ListPodSandboxMetrics: unary(validate.listPodSandboxMetrics, async () => ({
      podMetrics: await viewsOf(readyOnes(sandboxes, null), metricsView()),
    })),
    StreamPodSandboxMetrics: serverStream(validate.streamPodSandboxMetrics, () =>
      inChunks(readyOnes(sandboxes, null), metricsView(), (podSandboxMetrics) => ({ podSandboxMetrics })),
    ),
    GetContainerEvents: serverStream(validate.getContainerEvents, async function* (op) {
      using subscription = events.subscribe(op.signal);
      yield* subscription;
      if (subscription.overflowed)
        throw new ClassifiedError('resourceExhausted', 'get container events: the client fell behind; list again');
    }),
  };
}

const readyOnes = (sandboxes: ServiceDeps['sandboxes'], filter: PodSandboxStatsFilter__Output | null): PodSandboxRecord[] =>
  listPodSandboxes(sandboxes, { id: filter?.id ?? '', state: { state: 'SANDBOX_READY' }, labelSelector: filter?.labelSelector ?? {} });

/** Stopping and removing what is not there is fine (CRI), so a shortened id that matches nothing is passed on as it is. */
function fullId(find: () => { id: string }, id: string): string {
  try {
    return find().id;
  } catch (error) {
    if (error instanceof ClassifiedError && error.kind === 'notFound') return id;
    throw error;
  }
}
