import { nowNs } from '../../base/ids.ts';
import { isVisible } from '../../container/list.ts';
import type { ContainerRecord } from '../../container/record.ts';
import type { ContainerEventResponse } from '../../gen/cri/runtime/v1/ContainerEventResponse.ts';
import type { RecordStore } from '../../os/record-store.ts';
import type { PodSandboxRecord } from '../../sandbox/record.ts';
import { containerStatusView } from './container.ts';
import { podSandboxStatusView } from './sandbox.ts';

const TYPES = {
  created: 'CONTAINER_CREATED_EVENT',
  started: 'CONTAINER_STARTED_EVENT',
  stopped: 'CONTAINER_STOPPED_EVENT',
  deleted: 'CONTAINER_DELETED_EVENT',
} as const;

/** An event with the pod's whole status as it is at this moment (R24). A sandbox's own events carry its id as the container's, as CRI-O's and containerd's do. */
export function eventView(
  stores: { sandboxes: RecordStore<PodSandboxRecord>; containers: RecordStore<ContainerRecord> },
  type: keyof typeof TYPES,
  ids: { containerId: string; sandboxId: string },
): ContainerEventResponse {
  const sandbox = stores.sandboxes.get(ids.sandboxId);
  return {
    containerId: ids.containerId,
    containerEventType: TYPES[type],
    createdAt: String(nowNs()),
    podSandboxStatus: sandbox ? podSandboxStatusView(sandbox) : null,
    containersStatuses: stores.containers
      .values()
      .filter((record) => record.sandboxId === ids.sandboxId && isVisible(record))
      .map(containerStatusView),
  };
}
