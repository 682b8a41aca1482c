import { invalidArgument } from '../../base/errors.ts';
import type { IDMapping__Output } from '../../gen/cri/runtime/v1/IDMapping.ts';
import type { NamespaceOption__Output } from '../../gen/cri/runtime/v1/NamespaceOption.ts';
import { knownEnum } from './fields.ts';

/** 32 bits, and the highest means "none" to the kernel. */
const MAX_ID = 0xffff_fffe;

/**
 * CRI UserNamespace: NODE without mappings, or POD with one mapping of each kind, from id 0 on. `namespaces` are the other modes of the same message: what
 * the kernel would have to mount for them (proc, mqueue) belongs to the host's user namespace.
 */
export function usernsOptions(namespaces: NamespaceOption__Output, field: string): void {
  const options = namespaces.usernsOptions;
  if (options === null) return;
  knownEnum(options.mode, `${field}.userns_options.mode`);
  const own = `${field}.userns_options`;
  if (options.mode === 'NODE') {
    if (options.uids.length + options.gids.length > 0) throw invalidArgument(own, 'NODE takes no mappings');
    return;
  }
  if (options.mode !== 'POD') throw invalidArgument(`${own}.mode`, `${options.mode} is not a mode of the user namespace`);
  podMapping(options.uids, `${own}.uids`);
  podMapping(options.gids, `${own}.gids`);
  for (const kind of ['pid', 'ipc'] as const)
    if (namespaces[kind] === 'NODE') throw invalidArgument(`${field}.${kind}`, "can't be the node's in a pod with a user namespace");
}

function podMapping(mappings: readonly IDMapping__Output[], field: string): void {
  if (mappings.length !== 1) throw invalidArgument(field, `one mapping is needed, not ${mappings.length}`);
  mappings.forEach((mapping, index) => idMapping(mapping, `${field}[${index}]`));
  if (mappings[0]?.containerId !== 0) throw invalidArgument(`${field}[0].container_id`, 'must be 0: the pod needs a root');
}

/** Of a mount: both or none; its ids are the filesystem's. */
export function mountMappings(uids: readonly IDMapping__Output[], gids: readonly IDMapping__Output[], field: string): void {
  if (uids.length > 0 !== gids.length > 0)
    throw invalidArgument(`${field}.${uids.length > 0 ? 'gidMappings' : 'uidMappings'}`, 'is needed with the other');
  uids.forEach((mapping, index) => idMapping(mapping, `${field}.uidMappings[${index}]`));
  gids.forEach((mapping, index) => idMapping(mapping, `${field}.gidMappings[${index}]`));
}

function idMapping({ containerId, hostId, length }: IDMapping__Output, field: string): void {
  if (length === 0) throw invalidArgument(`${field}.length`, 'must not be 0');
  for (const [name, first] of [
    ['container_id', containerId],
    ['host_id', hostId],
  ] as const) {
    if (first + length - 1 > MAX_ID) throw invalidArgument(`${field}.${name}`, `${first} and the ${length - 1} after it are not all ids`);
  }
}
