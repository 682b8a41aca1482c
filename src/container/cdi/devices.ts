import { invalidArgument, wrap } from '../../base/errors.ts';
import type { Op } from '../../base/op.ts';
import type { ContainerConfig__Output } from '../../gen/cri/runtime/v1/ContainerConfig.ts';
import { hostPathDevice } from '../../os/path-task.ts';
import type { CdiDeviceNode, CdiEdits } from '../oci-spec/cdi-edits.ts';
import type { HostDevice } from '../oci-spec/devices.ts';
import type { CdiRegistry, CdiRequest } from './registry.ts';

const ANNOTATION_PREFIX = 'cdi.k8s.io/';

/**
 * CDI devices of a container: those of its field, then those that device plugins name in the annotations of the *container*, each once. Annotations of
 * the pod, which its user writes, are not looked at (S6).
 */
export function cdiRequests(config: Pick<ContainerConfig__Output, 'CDIDevices' | 'annotations'>): CdiRequest[] {
  const fields = config.CDIDevices.map(({ name }, index): CdiRequest => ({ name, field: `config.CDI_devices[${index}].name` }));
  const annotated = Object.entries(config.annotations)
    .filter(([key]) => key.startsWith(ANNOTATION_PREFIX))
    .sort(([a], [b]) => (a < b ? -1 : 1))
    .flatMap(([key, value]) => value.split(',').map((name): CdiRequest => ({ name, field: `config.annotations[${key}]` })));
  const all = [...fields, ...annotated];
  return all.filter(({ name }, index) => all.findIndex((other) => other.name === name) === index);
}

/** What the container's CDI devices want changed; nothing for a container that asks for none. invalidArgument as `CdiRegistry` and `cdiHostDevices` have it. */
export async function resolveCdi(
  registry: CdiRegistry,
  op: Op,
  config: ContainerConfig__Output,
): Promise<{ edits: CdiEdits; devices: readonly HostDevice[] }> {
  const edits = await registry.editsOf(cdiRequests(config));
  if (edits.netDevices.length > 0)
    op.log.warn(
      { container: config.metadata?.name, netDevices: edits.netDevices },
      'network devices of CDI specs are not moved into containers yet',
    );
  return { edits, devices: await cdiHostDevices(op, edits.deviceNodes) };
}

/**
 * Device nodes with what the file leaves to the host: type, numbers, mode. Killable processes look (R2). invalidArgument names the node that is missing,
 * no device, or of another type than the file says.
 */
export async function cdiHostDevices(op: Op, nodes: readonly CdiDeviceNode[]): Promise<HostDevice[]> {
  return Promise.all(nodes.map((node) => hostDevice(op, node)));
}

async function hostDevice(op: Op, node: CdiDeviceNode): Promise<HostDevice> {
  const { path, hostPath = path, type, permissions = 'rwm', uid, gid } = node;
  const isWhole = type === 'p' || (type !== undefined && node.major !== undefined);
  const owner = { permissions, ...(uid === undefined ? {} : { uid }), ...(gid === undefined ? {} : { gid }) };
  if (isWhole && node.fileMode !== undefined) {
    return { path, type, major: node.major ?? 0, minor: node.minor ?? 0, fileMode: node.fileMode, ...owner };
  }
  const field = `CDI device node ${path}`;
  const found = await hostPathDevice(op, hostPath).catch((error: unknown) => {
    throw wrap(field, error);
  });
  if (isWhole) {
    // A vendor may describe a node that is not there yet.
    return { path, type, major: node.major ?? 0, minor: node.minor ?? 0, fileMode: node.fileMode ?? found?.fileMode ?? 0o666, ...owner };
  }
  if (found === undefined) throw invalidArgument(field, `${hostPath} is not a device of this machine`);
  if (type !== undefined && type !== found.type && !(type === 'u' && found.type === 'c'))
    throw invalidArgument(field, `${hostPath} is of type ${found.type}, the CDI spec says ${type}`);
  const source = hostPath === path ? {} : { source: hostPath };
  return {
    path,
    ...source,
    type: found.type,
    major: found.major,
    minor: found.minor,
    fileMode: node.fileMode ?? found.fileMode,
    ...owner,
  };
}
