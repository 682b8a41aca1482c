import type { GetEventsRequest__Output } from '../../gen/cri/runtime/v1/GetEventsRequest.ts';
import type { ImageFsInfoRequest__Output } from '../../gen/cri/runtime/v1/ImageFsInfoRequest.ts';
import type { ListContainersRequest__Output } from '../../gen/cri/runtime/v1/ListContainersRequest.ts';
import type { ListContainerStatsRequest__Output } from '../../gen/cri/runtime/v1/ListContainerStatsRequest.ts';
import type { ListImagesRequest__Output } from '../../gen/cri/runtime/v1/ListImagesRequest.ts';
import type { ListMetricDescriptorsRequest__Output } from '../../gen/cri/runtime/v1/ListMetricDescriptorsRequest.ts';
import type { ListPodSandboxMetricsRequest__Output } from '../../gen/cri/runtime/v1/ListPodSandboxMetricsRequest.ts';
import type { ListPodSandboxRequest__Output } from '../../gen/cri/runtime/v1/ListPodSandboxRequest.ts';
import type { ListPodSandboxStatsRequest__Output } from '../../gen/cri/runtime/v1/ListPodSandboxStatsRequest.ts';
import type { RuntimeConfigRequest__Output } from '../../gen/cri/runtime/v1/RuntimeConfigRequest.ts';
import type { StatusRequest__Output } from '../../gen/cri/runtime/v1/StatusRequest.ts';
import type { StreamContainersRequest__Output } from '../../gen/cri/runtime/v1/StreamContainersRequest.ts';
import type { StreamContainerStatsRequest__Output } from '../../gen/cri/runtime/v1/StreamContainerStatsRequest.ts';
import type { StreamImagesRequest__Output } from '../../gen/cri/runtime/v1/StreamImagesRequest.ts';
import type { StreamPodSandboxesRequest__Output } from '../../gen/cri/runtime/v1/StreamPodSandboxesRequest.ts';
import type { StreamPodSandboxMetricsRequest__Output } from '../../gen/cri/runtime/v1/StreamPodSandboxMetricsRequest.ts';
import type { StreamPodSandboxStatsRequest__Output } from '../../gen/cri/runtime/v1/StreamPodSandboxStatsRequest.ts';
import type { UpdateRuntimeConfigRequest__Output } from '../../gen/cri/runtime/v1/UpdateRuntimeConfigRequest.ts';
import type { VersionRequest__Output } from '../../gen/cri/runtime/v1/VersionRequest.ts';
import { podCidr } from './fields.ts';

export { containerId, createContainer, execSync, stopContainer, updateContainerResources } from './container.ts';
export { imageOf, pullImage } from './image.ts';
export { podSandboxId, podSandboxStatus, runPodSandbox, updatePodSandboxResources } from './sandbox.ts';
export { attach, exec, portForward } from './streaming.ts';

/** Requests without anything that could be wrong. */
const anything = <T>(request: T): T => request;

export const version = anything<VersionRequest__Output>;
export const status = anything<StatusRequest__Output>;
export const runtimeConfig = anything<RuntimeConfigRequest__Output>;

export function updateRuntimeConfig(request: UpdateRuntimeConfigRequest__Output): { podCidr: string } {
  const text = request.runtimeConfig?.networkConfig?.podCidr ?? '';
  if (text !== '') podCidr(text, 'runtime_config.network_config.pod_cidr');
  return { podCidr: text };
}

export const listPodSandbox = anything<ListPodSandboxRequest__Output>;
export const streamPodSandboxes = anything<StreamPodSandboxesRequest__Output>;
export const listContainers = anything<ListContainersRequest__Output>;
export const streamContainers = anything<StreamContainersRequest__Output>;
export const listContainerStats = anything<ListContainerStatsRequest__Output>;
export const streamContainerStats = anything<StreamContainerStatsRequest__Output>;
export const listPodSandboxStats = anything<ListPodSandboxStatsRequest__Output>;
export const streamPodSandboxStats = anything<StreamPodSandboxStatsRequest__Output>;
export const getContainerEvents = anything<GetEventsRequest__Output>;
export const listImages = anything<ListImagesRequest__Output>;
export const streamImages = anything<StreamImagesRequest__Output>;
export const imageFsInfo = anything<ImageFsInfoRequest__Output>;
export const listMetricDescriptors = anything<ListMetricDescriptorsRequest__Output>;
export const listPodSandboxMetrics = anything<ListPodSandboxMetricsRequest__Output>;
export const streamPodSandboxMetrics = anything<StreamPodSandboxMetricsRequest__Output>;
