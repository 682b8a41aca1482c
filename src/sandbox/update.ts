import { ClassifiedError } from '../base/errors.ts';
import type { Op } from '../base/op.ts';
import type { SandboxDeps } from './deps.ts';
import { findPodSandbox } from './list.ts';
import type { PodResources } from './resources.ts';
import { changePodCgroup, resourcesInForce } from './resources.ts';

/**
 * CRI UpdatePodSandboxResources: in the record when it returns, and in force where the pod's cgroup is ours; one that kubelet made is kubelet's to change, as with
 * containerd and CRI-O. What is null stays as it is. failedPrecondition unless the sandbox is ready.
 */
export async function updatePodSandboxResources(deps: SandboxDeps, op: Op, id: string, change: PodResources): Promise<void> {
  const { id: full } = findPodSandbox(deps, id);
  using _ = await deps.locks.lock(full);
  const record = findPodSandbox(deps, full);
  if (record.state !== 'ready') throw new ClassifiedError('failedPrecondition', `update pod sandbox ${full}: it is not ready`);
  const old = resourcesInForce(record);
  const { overhead, resources } = { overhead: change.overhead ?? old.overhead, resources: change.resources ?? old.resources };
  if (record.ownsCgroupParent) {
    op.span.stage('cgroup');
    await changePodCgroup(record, { overhead, resources });
  }
  // Not the one read above: its pause process may have gone meanwhile.
  const current = findPodSandbox(deps, full);
  await deps.store.put({ ...current, ...(overhead ? { overhead } : {}), ...(resources ? { resources } : {}) });
}
