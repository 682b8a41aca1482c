import { nowNs } from '../../base/ids.ts';
import type { ContainerEventType } from '../../container/deps.ts';
import { isVisible } from '../../container/list.ts';
import type { ContainerRecord } from '../../container/record.ts';
import type { Bus } from '../../events/bus.ts';
import type { ContainerEventResponse } from '../../gen/cri/runtime/v1/ContainerEventResponse.ts';
import type { RecordStore } from '../../os/record-store.ts';
import type { SandboxEventType } from '../../sandbox/deps.ts';
import type { PodSandboxRecord } from '../../sandbox/record.ts';
import { containerStatusView } from './container.ts';
import { podSandboxStatusView } from './sandbox.ts';

const TYPES = {
  created: 'CONTAINER_CREATED_EVENT',
  started: 'CONTAINER_STARTED_EVENT',
  stopped: 'CONTAINER_STOPPED_EVENT',
  deleted: 'CONTAINER_DELETED_EVENT',
} as const;

export interface Stores {
  readonly sandboxes: Pick<RecordStore<PodSandboxRecord>, 'get'>;
  readonly containers: Pick<RecordStore<ContainerRecord>, 'values'>;
}

/** An event with the pod's whole status as it is at this moment (R24). */
function eventView(stores: Stores, type: keyof typeof TYPES, containerId: string, sandbox: PodSandboxRecord): ContainerEventResponse {
  return {
    containerId,
    containerEventType: TYPES[type],
    createdAt: String(nowNs()),
    podSandboxStatus: podSandboxStatusView(sandbox),
    containersStatuses: stores.containers
      .values()
      .filter((record) => record.sandboxId === sandbox.id && isVisible(record))
      .map(containerStatusView),
  };
}

/**
 * What the use cases tell their changes to. A container without a pod (its record could not be read) has no events: kubelet can't tell whose they
 * would be. Views are made only when somebody listens.
 */
export function publisher(bus: Bus<ContainerEventResponse>, stores: Stores) {
  return {
    container(type: ContainerEventType, record: ContainerRecord): void {
      if (bus.subscribers === 0) return;
      const sandbox = stores.sandboxes.get(record.sandboxId);
      if (sandbox) bus.publish(eventView(stores, type, record.id, sandbox));
    },
    /** A sandbox's own events carry its id as the container's, as CRI-O's and containerd's do; the last one comes when its record is gone. */
    sandbox(type: SandboxEventType, record: PodSandboxRecord): void {
      if (bus.subscribers > 0) bus.publish(eventView(stores, type, record.id, record));
    },
  };
}
