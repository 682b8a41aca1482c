import { wrap } from '../base/errors.ts';
import type { Op } from '../base/op.ts';
import type { Mount__Output } from '../gen/cri/runtime/v1/Mount.ts';
import { hostPathMkdir, hostPathStat } from '../os/path-task.ts';
import { relabel } from '../os/selinux.ts';
import type { ResolvedMount } from './oci-spec/mounts.ts';

/**
 * CRI mounts with their host paths resolved; `imageSources` has those of image volumes by position, `mountLabel` is what kubelet wants some relabelled to. Each is looked up by a killable process with a deadline: the pod chose the path, and what is behind it may never answer (R2).
 * A host path that is missing is made as a directory, as kubelet's hostPath of no type expects.
 */
export async function resolveMounts(
  op: Op,
  mounts: readonly Mount__Output[],
  given: { imageSources: ReadonlyMap<number, string>; mountLabel: string | undefined },
): Promise<ResolvedMount[]> {
  return Promise.all(
    mounts.map((mount, index) => {
      const image = given.imageSources.get(index);
      return image === undefined ? resolve(op, mount, `config.mounts[${index}]`, given.mountLabel) : imageMount(mount, image);
    }),
  );
}

async function resolve(op: Op, mount: Mount__Output, field: string, mountLabel: string | undefined): Promise<ResolvedMount> {
  const source = await hostSource(op, mount.hostPath, field);
  if (mount.selinuxRelabel && mountLabel !== undefined) {
    await relabel(op, source, mountLabel).catch((error: unknown) => {
      throw wrap(`${field}.selinux_relabel`, error);
    });
  }
  return {
    containerPath: mount.containerPath,
    source,
    readOnly: mount.readonly,
    recursiveReadOnly: mount.recursiveReadOnly,
    uidMappings: mount.uidMappings,
    gidMappings: mount.gidMappings,
    propagation:
      mount.propagation === 'PROPAGATION_BIDIRECTIONAL'
        ? 'rshared'
        : mount.propagation === 'PROPAGATION_HOST_TO_CONTAINER'
          ? 'rslave'
          : 'private',
  };
}

// Programs may be run from it: what an image holds is as good as the container's own image (KEP-4639).
const imageMount = (mount: Mount__Output, source: string): ResolvedMount => ({
  containerPath: mount.containerPath,
  source,
  readOnly: true,
  recursiveReadOnly: false,
  propagation: 'private',
  flags: ['nosuid', 'nodev'],
});

async function hostSource(op: Op, path: string, field: string): Promise<string> {
  try {
    const found = await hostPathStat(op, path);
    if (found.kind !== 'missing') return found.realPath;
    await hostPathMkdir(op, path);
    return (await hostPathStat(op, path)).realPath;
  } catch (error) {
    throw wrap(`${field}.host_path ${path}`, error);
  }
}
