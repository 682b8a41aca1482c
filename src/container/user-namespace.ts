import { isDeepStrictEqual } from 'node:util';
import { invalidArgument } from '../base/errors.ts';
import type { ContainerConfig__Output } from '../gen/cri/runtime/v1/ContainerConfig.ts';
import { hostIdOf } from '../os/user-namespace.ts';
import { podPaths } from '../sandbox/paths.ts';
import type { PodSandboxRecord } from '../sandbox/record.ts';
import { userMappings } from '../sandbox/record.ts';
import type { RootfsIdmap } from '../snapshot/snapshotter.ts';
import type { ContainerRecord } from './record.ts';

/** How the pod's user namespace is to be seen by a snapshotter; undefined: the pod has the host's. */
export function podIdmap(stateDir: string, sandbox: PodSandboxRecord): RootfsIdmap | undefined {
  const mappings = userMappings(sandbox.config);
  if (mappings === undefined) return undefined;
  return {
    userns: podPaths(stateDir, sandbox.id).user,
    uid: (id) => hostIdOf(mappings.uids, id),
    gid: (id) => hostIdOf(mappings.gids, id),
  };
}

/** The host's ids of the pod's root. */
export const podRoot = (idmap: RootfsIdmap | undefined): { uid: number; gid: number } => ({
  uid: idmap?.uid(0) ?? 0,
  gid: idmap?.gid(0) ?? 0,
});

/**
 * A container is in its pod's user namespace, whatever it says; kubelet says the same for both. invalidArgument when it asks for another,
 * or has volumes to be mapped and the pod has no namespace.
 */
export function checkUserNamespace(sandbox: PodSandboxRecord, config: ContainerConfig__Output): void {
  const mappings = userMappings(sandbox.config);
  const asked = config.linux?.securityContext?.namespaceOptions?.usernsOptions ?? null;
  const field = 'config.linux.security_context.namespace_options.userns_options';
  if (asked !== null && !isDeepStrictEqual(asked.mode === 'POD' ? { uids: asked.uids, gids: asked.gids } : undefined, mappings))
    throw invalidArgument(field, 'is not that of the pod sandbox');
  if (mappings !== undefined) return;
  const mapped = config.mounts.findIndex(({ uidMappings, gidMappings }) => uidMappings.length + gidMappings.length > 0);
  if (mapped >= 0) throw invalidArgument(`config.mounts[${mapped}].uidMappings`, 'the pod sandbox has no user namespace');
}

/** Ids that nobody has in the pod's user namespace can't run there. invalidArgument, whether the config or the image named them. */
export function checkMapped(user: ContainerRecord['user'], idmap: RootfsIdmap | undefined): void {
  if (idmap === undefined) return;
  const field = 'config.linux.security_context';
  const refuse = (name: string, id: number): never => {
    throw invalidArgument(`${field}.${name}`, `${id} is not mapped in the user namespace of the pod`);
  };
  if (idmap.uid(user.uid) === undefined) refuse('run_as_user', user.uid);
  if (idmap.gid(user.gid) === undefined) refuse('run_as_group', user.gid);
  for (const gid of user.additionalGids) if (idmap.gid(gid) === undefined) refuse('supplemental_groups', gid);
}
