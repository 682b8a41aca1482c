import { ClassifiedError } from '../base/errors.ts';
import type { Op } from '../base/op.ts';
import type { LinuxContainerResources__Output } from '../gen/cri/runtime/v1/LinuxContainerResources.ts';
import type { ContainerDeps } from './deps.ts';
import { findContainer } from './list.ts';
import { resourcesOf } from './oci-spec/resources.ts';

/** CRI UpdateContainerResources: unset (zero) fields stay as they are; in force and in the record when it returns. failedPrecondition once it has exited. */
export async function updateContainerResources(
  deps: ContainerDeps,
  op: Op,
  id: string,
  resources: LinuxContainerResources__Output,
): Promise<void> {
  const { id: full } = findContainer(deps, id);
  using _ = await deps.locks.lock(full);
  const record = findContainer(deps, full);
  if (record.state !== 'created' && record.state !== 'running') {
    throw new ClassifiedError('failedPrecondition', `update container ${full}: it is ${record.state}`);
  }
  op.span.stage('runtime update');
  await deps.handler(record.runtimeHandler).update(op, full, { linux: { ...resourcesOf(resources, deps.facts) } });
  const current = findContainer(deps, full);
  await deps.store.put({ ...current, resources: merged(current.resources, resources) });
}

function merged(old: LinuxContainerResources__Output | null, change: LinuxContainerResources__Output): LinuxContainerResources__Output {
  if (old === null) return change;
  const set = Object.entries(change).filter(([, value]) =>
    typeof value === 'string' ? value !== '' && value !== '0' : Object.keys(value as object).length > 0,
  );
  return {
    ...old,
    ...(Object.fromEntries(set) as Partial<LinuxContainerResources__Output>),
    unified: { ...old.unified, ...change.unified },
  };
}
