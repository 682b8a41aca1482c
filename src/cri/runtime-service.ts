import { ClassifiedError } from '../base/errors.ts';
import { createContainer } from '../container/create.ts';
import { execSync } from '../container/exec-sync.ts';
import { findContainer, listContainers } from '../container/list.ts';
import { removeContainer } from '../container/remove.ts';
import { reopenContainerLog } from '../container/reopen-log.ts';
import { startContainer } from '../container/start.ts';
import { stopContainer } from '../container/stop.ts';
import { updateContainerResources } from '../container/update.ts';
import { findPodSandbox, listPodSandboxes } from '../sandbox/list.ts';
import { removePodSandbox } from '../sandbox/remove.ts';
import { runPodSandbox } from '../sandbox/run.ts';
import { stopPodSandbox } from '../sandbox/stop.ts';
import type { ServiceDeps } from './deps.ts';
import type { RuntimeRows } from './server.ts';
import { inChunks, serverStream } from './server-stream.ts';
import { unary } from './unary.ts';
import * as validate from './validate/index.ts';
import { containerStatusView, containerView } from './view/container.ts';
import { podSandboxStatusView, podSandboxView } from './view/sandbox.ts';
import { containerStatsView, podSandboxStatsView } from './view/stats.ts';
import { statusView } from './view/status.ts';
import { verboseContainer, verboseSandbox } from './view/verbose.ts';
import { RUNTIME_NAME, RUNTIME_VERSION } from './version.ts';

/** CRI RuntimeService: one row per RPC, from validator to use case to view. What has no row answers Unimplemented. */
export function runtimeService({ sandboxes, containers, events, status, stats }: ServiceDeps): RuntimeRows {
  const containersOf = (sandboxId: string) => listContainers(containers, null).filter((record) => record.sandboxId === sandboxId);
  const sandboxId = (id: string): string => resolved(() => findPodSandbox(sandboxes, id).id, id);
  const containerId = (id: string): string => resolved(() => findContainer(containers, id).id, id);
  return {
    Version: unary(validate.version, () => ({
      version: '0.1.0',
      runtimeName: RUNTIME_NAME,
      runtimeVersion: RUNTIME_VERSION,
      runtimeApiVersion: 'v1',
    })),
    Status: unary(validate.status, (_op, { verbose }) => statusView(status, verbose)),
    RuntimeConfig: unary(validate.runtimeConfig, () => ({ linux: { cgroupDriver: status.cgroupDriver } })),
    UpdateRuntimeConfig: unary(validate.updateRuntimeConfig, () => ({})),

    RunPodSandbox: unary(validate.runPodSandbox, async (op, { config, runtimeHandler }) => ({
      podSandboxId: await runPodSandbox(sandboxes, op, config, runtimeHandler),
    })),
    StopPodSandbox: unary(validate.stopPodSandbox, async (op, { podSandboxId }) => {
      await stopPodSandbox(sandboxes, op, sandboxId(podSandboxId));
      return {};
    }),
    RemovePodSandbox: unary(validate.removePodSandbox, async (op, { podSandboxId }) => {
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
    ListPodSandbox: unary(validate.listPodSandbox, (_op, { filter }) => ({
      items: listPodSandboxes(sandboxes, filter).map(podSandboxView),
    })),
    StreamPodSandboxes: serverStream(validate.streamPodSandboxes, (_op, { filter }) =>
      inChunks(listPodSandboxes(sandboxes, filter), (part) => ({ podSandboxes: part.map(podSandboxView) })),
    ),

    CreateContainer: unary(validate.createContainer, async (op, { podSandboxId, config }) => ({
      containerId: await createContainer(containers, op, sandboxId(podSandboxId), config),
    })),
    StartContainer: unary(validate.startContainer, async (op, request) => {
      await startContainer(containers, op, request.containerId);
      return {};
    }),
    StopContainer: unary(validate.stopContainer, async (op, request) => {
      await stopContainer(containers, op, request.containerId, request.timeoutMs);
      return {};
    }),
    RemoveContainer: unary(validate.removeContainer, async (op, request) => {
      await removeContainer(containers, op, containerId(request.containerId));
      return {};
    }),
    ListContainers: unary(validate.listContainers, (_op, { filter }) => ({
      containers: listContainers(containers, filter).map(containerView),
    })),
    StreamContainers: serverStream(validate.streamContainers, (_op, { filter }) =>
      inChunks(listContainers(containers, filter), (part) => ({ containers: part.map(containerView) })),
    ),
    ContainerStatus: unary(validate.containerStatus, (_op, request) => {
      const record = findContainer(containers, request.containerId);
      return { status: containerStatusView(record), info: request.verbose ? verboseContainer(record) : {} };
    }),
    UpdateContainerResources: unary(validate.updateContainerResources, async (op, request) => {
      await updateContainerResources(containers, op, request.containerId, request.linux);
      return {};
    }),
    ReopenContainerLog: unary(validate.reopenContainerLog, async (op, request) => {
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

    ContainerStats: unary(validate.containerStats, async (_op, request) => ({
      stats: await containerStatsView(stats, findContainer(containers, request.containerId)),
    })),
    ListContainerStats: unary(validate.listContainerStats, async (_op, { filter }) => ({
      stats: await Promise.all(
        running(listContainers(containers, containerFilter(filter))).map((record) => containerStatsView(stats, record)),
      ),
    })),
    PodSandboxStats: unary(validate.podSandboxStats, async (_op, request) => {
      const record = findPodSandbox(sandboxes, request.podSandboxId);
      return { stats: await podSandboxStatsView(stats, record, running(containersOf(record.id))) };
    }),
    ListPodSandboxStats: unary(validate.listPodSandboxStats, async (_op, { filter }) => ({
      stats: await Promise.all(
        listPodSandboxes(sandboxes, {
          id: filter?.id ?? '',
          state: { state: 'SANDBOX_READY' },
          labelSelector: filter?.labelSelector ?? {},
        }).map((record) => podSandboxStatsView(stats, record, running(containersOf(record.id)))),
      ),
    })),
    GetContainerEvents: serverStream(validate.getContainerEvents, async function* (op) {
      using subscription = events.subscribe(op.signal);
      yield* subscription;
      if (subscription.overflowed)
        throw new ClassifiedError('resourceExhausted', 'get container events: the client fell behind; list again');
    }),
  };
}
