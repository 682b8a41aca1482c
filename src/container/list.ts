import { byId, newestFirst } from '../base/ids.ts';
import type { ContainerFilter__Output } from '../gen/cri/runtime/v1/ContainerFilter.ts';
import type { ContainerDeps } from './deps.ts';
import type { ContainerRecord } from './record.ts';

export const isVisible = (record: ContainerRecord): boolean => record.state !== 'creating';

/** `CONTAINER_RUNNING` and so on (CRI ContainerState). */
export function criState(record: ContainerRecord): 'CONTAINER_CREATED' | 'CONTAINER_RUNNING' | 'CONTAINER_EXITED' | 'CONTAINER_UNKNOWN' {
  if (record.state === 'created') return 'CONTAINER_CREATED';
  if (record.state === 'running') return 'CONTAINER_RUNNING';
  return record.state === 'unknown' ? 'CONTAINER_UNKNOWN' : 'CONTAINER_EXITED';
}

/** From memory; ids may be shortened to a prefix, as crictl does. */
export function listContainers(deps: Pick<ContainerDeps, 'store'>, filter: ContainerFilter__Output | null): ContainerRecord[] {
  const labels = Object.entries(filter?.labelSelector ?? {});
  return deps.store
    .values()
    .filter(
      (record) =>
        isVisible(record) &&
        (!filter?.id || record.id.startsWith(filter.id)) &&
        (!filter?.podSandboxId || record.sandboxId.startsWith(filter.podSandboxId)) &&
        (!filter?.state || criState(record) === filter.state.state) &&
        labels.every(([key, value]) => record.config.labels[key] === value),
    )
    .sort(newestFirst);
}

/** Full id or unique prefix. notFound; invalidArgument when the prefix is not unique. */
export function findContainer(deps: Pick<ContainerDeps, 'store'>, id: string): ContainerRecord {
  const exact = deps.store.get(id);
  if (exact && isVisible(exact)) return exact;
  return byId(deps.store.values().filter(isVisible), id, { noun: 'container', field: 'container_id' });
}
