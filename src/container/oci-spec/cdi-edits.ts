import { byDepth, trimmed } from './mounts.ts';
import type { HostDevice } from './devices.ts';
import type { OciDevice, OciDeviceRule, OciHooks, OciIntelRdt, OciMount, OciSpec } from './spec-types.ts';

export interface CdiDeviceNode {
  readonly path: string;
  readonly hostPath?: string;
  readonly type?: OciDevice['type'];
  readonly major?: number;
  readonly minor?: number;
  readonly fileMode?: number;
  /** Of r, w and m; `none` for none, absent for all. */
  readonly permissions?: string;
  readonly uid?: number;
  readonly gid?: number;
}

export interface CdiMount {
  readonly hostPath: string;
  readonly containerPath: string;
  readonly type?: string;
  readonly options?: readonly string[];
}

export const HOOK_NAMES = ['prestart', 'createRuntime', 'createContainer', 'startContainer', 'poststart', 'poststop'] as const;

export interface CdiHook {
  readonly hookName: (typeof HOOK_NAMES)[number];
  readonly path: string;
  readonly args?: readonly string[];
  readonly env?: readonly string[];
  /** Seconds. */
  readonly timeout?: number;
}

export interface CdiNetDevice {
  readonly hostInterfaceName: string;
  readonly name: string;
}

/** `containerEdits` of the CDI spec (1.1.0), checked. */
export interface CdiEdits {
  readonly env: readonly string[];
  readonly deviceNodes: readonly CdiDeviceNode[];
  readonly netDevices: readonly CdiNetDevice[];
  readonly mounts: readonly CdiMount[];
  readonly hooks: readonly CdiHook[];
  readonly intelRdt?: OciIntelRdt;
  readonly additionalGids: readonly number[];
}

export const NO_EDITS: CdiEdits = { env: [], deviceNodes: [], netDevices: [], mounts: [], hooks: [], additionalGids: [] };

/** One after the other; of what there can be only one of, the last counts. */
export function mergedEdits(all: readonly CdiEdits[]): CdiEdits {
  return all.reduce(
    (sum, next) => ({
      env: [...sum.env, ...next.env],
      deviceNodes: [...sum.deviceNodes, ...next.deviceNodes],
      netDevices: [...sum.netDevices, ...next.netDevices],
      mounts: [...sum.mounts, ...next.mounts],
      hooks: [...sum.hooks, ...next.hooks],
      additionalGids: [...sum.additionalGids, ...next.additionalGids],
      ...((next.intelRdt ?? sum.intelRdt) ? { intelRdt: next.intelRdt ?? sum.intelRdt } : {}),
    }),
    NO_EDITS,
  );
}

/**
 * The spec with the edits of CDI devices made (CDI spec, OCI Edits): variables, nodes and mounts replace what has their name, hooks and groups are added.
 * `devices` are the device nodes with what the host says of them. Network devices are not moved: that takes a runtime of OCI 1.3. Pure.
 */
export function withCdi(spec: OciSpec, edits: CdiEdits, devices: readonly HostDevice[]): OciSpec {
  const { process, linux } = spec;
  const gids = edits.additionalGids.filter((gid) => gid !== 0);
  const additionalGids = [...new Set([...(process.user.additionalGids ?? []), ...gids])];
  const hooks = hooksOf(spec.hooks ?? {}, edits.hooks);
  return {
    ...spec,
    process: {
      ...process,
      env: envWith(process.env, edits.env),
      user: { ...process.user, ...(gids.length > 0 ? { additionalGids } : {}) },
    },
    mounts: mountsWith(spec.mounts, edits.mounts, linux),
    ...(Object.keys(hooks).length > 0 ? { hooks } : {}),
    linux: {
      ...linux,
      resources: { ...linux.resources, devices: [...(linux.resources.devices ?? []), ...devices.flatMap(ruleOf)] },
      devices: nodesWith(linux.devices, devices, process.user),
      ...(edits.intelRdt === undefined ? {} : { intelRdt: edits.intelRdt }),
    },
  };
}

function envWith(env: readonly string[], more: readonly string[]): string[] {
  const byName = new Map(env.map((entry) => [entry.split('=', 1)[0], entry]));
  for (const entry of more) byName.set(entry.split('=', 1)[0], entry);
  return [...byName.values()];
}

function nodesWith(nodes: readonly OciDevice[], more: readonly HostDevice[], user: { uid: number; gid: number }): OciDevice[] {
  const byPath = new Map(nodes.map((node) => [node.path, node]));
  for (const { permissions: _permissions, source: _source, ...node } of more) {
    byPath.delete(node.path);
    // Who runs as somebody else than root could not open a node of root's; a spec that names an owner says what it wants.
    byPath.set(node.path, { ...node, uid: node.uid ?? user.uid, gid: node.gid ?? user.gid });
  }
  return [...byPath.values()];
}

function ruleOf({ type, major, minor, permissions }: HostDevice): OciDeviceRule[] {
  if (type !== 'b' && type !== 'c') return [];
  return permissions === 'none' ? [] : [{ allow: true, type, major, minor, access: permissions || 'rwm' }];
}

function mountsWith(
  mounts: readonly OciMount[],
  more: readonly CdiMount[],
  { uidMappings, gidMappings }: OciSpec['linux'],
): readonly OciMount[] {
  if (more.length === 0) return mounts;
  const added = more.map(({ hostPath, containerPath, type = '', options = [] }): OciMount => {
    // What has neither type nor options can only be meant as a bind mount.
    const isNamed = options.includes('bind') || options.includes('rbind');
    const isBind = isNamed || type === '' || type === 'bind';
    return {
      destination: trimmed(containerPath),
      type: type === '' ? 'bind' : type,
      source: hostPath,
      options: isBind && !isNamed ? ['rbind', ...options] : options,
      // In a pod with users of its own, root's files are its root's.
      ...(isBind && uidMappings !== undefined && gidMappings !== undefined ? { uidMappings, gidMappings } : {}),
    };
  });
  const last = new Map(added.map((mount) => [mount.destination, mount]));
  return byDepth([...mounts.filter(({ destination }) => !last.has(trimmed(destination))), ...last.values()]);
}

function hooksOf(hooks: OciHooks, more: readonly CdiHook[]): OciHooks {
  return more.reduce<OciHooks>((all, { hookName, ...hook }) => ({ ...all, [hookName]: [...(all[hookName] ?? []), hook] }), hooks);
}
