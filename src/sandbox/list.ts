import { byId, newestFirst } from '../base/ids.ts';
import type { PodSandboxFilter__Output } from '../gen/cri/runtime/v1/PodSandboxFilter.ts';
import type { SandboxDeps } from './deps.ts';
import type { PodSandboxRecord } from './record.ts';

/** `creating` ones are nobody's business yet (DESIGN 3.9), and `warm` ones no pod's. */
export const isVisible = ({ state }: PodSandboxRecord): boolean => state !== 'creating' && state !== 'warm';

export const isReady = (record: PodSandboxRecord): boolean => record.state === 'ready';

/** From memory; ids may be shortened to a unique prefix, as crictl does. */
export function listPodSandboxes(deps: Pick<SandboxDeps, 'store'>, filter: PodSandboxFilter__Output | null): PodSandboxRecord[] {
  const labels = Object.entries(filter?.labelSelector ?? {});
  return deps.store
    .values()
    .filter(
      (record) =>
        isVisible(record) &&
        (!filter?.id || record.id.startsWith(filter.id)) &&
        (!filter?.state || isReady(record) === (filter.state.state === 'SANDBOX_READY')) &&
        labels.every(([key, value]) => record.config.labels[key] === value),
    )
    .sort(newestFirst);
}

/** Full id or unique prefix. notFound; invalidArgument when the prefix is not unique. */
export function findPodSandbox(deps: Pick<SandboxDeps, 'store'>, id: string): PodSandboxRecord {
  const exact = deps.store.get(id);
  if (exact && isVisible(exact)) return exact;
  return byId(deps.store.values().filter(isVisible), id, { noun: 'pod sandbox', field: 'pod_sandbox_id' });
}
