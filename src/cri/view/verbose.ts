import { containerPaths } from '../../container/record.ts';
import type { ContainerRecord } from '../../container/record.ts';
import type { PodSandboxRecord } from '../../sandbox/record.ts';
import { resourcesInForce } from '../../sandbox/resources.ts';

/** `info` of a verbose PodSandboxStatus: one JSON document under "info", as crictl inspectp shows it. */
export const verboseSandbox = (record: PodSandboxRecord): Record<string, string> => {
  const { config, runtimeHandler, state, pause, attachment, cgroupParent, failedSteps } = record;
  return {
    info: JSON.stringify({
      state,
      pid: pause?.init.pid ?? 0,
      runtimeHandler,
      cgroupParent,
      ...resourcesInForce(record),
      network: attachment,
      failedSteps,
      config,
    }),
  };
};

/** `info` of a verbose ContainerStatus. critest and crictl look for `sandboxID` and `pid` in it. */
export const verboseContainer = (record: ContainerRecord, stateDir: string): Record<string, string> => {
  const { config, sandboxId, process, cgroupPath, runtimeHandler, failedSteps } = record;
  const { bundle } = containerPaths(stateDir, record.id);
  return {
    info: JSON.stringify({
      sandboxID: sandboxId,
      pid: process?.init.pid ?? 0,
      monitor: process?.monitor.pid,
      runtimeHandler,
      cgroupPath,
      bundle,
      failedSteps,
      config,
    }),
  };
};
