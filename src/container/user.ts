import type { ContainerConfig__Output } from '../gen/cri/runtime/v1/ContainerConfig.ts';
import type { ImageConfig } from '../image/image.ts';
import type { ResolvedUser } from './rootfs-users.ts';
import { readRootfsFile, resolveUser } from './rootfs-users.ts';

/** Who a container runs as, from its config, its image's config and the files of its mounted rootfs. */
export function userOf(rootfs: string, config: ContainerConfig__Output, image: ImageConfig): ResolvedUser {
  const context = config.linux?.securityContext ?? null;
  const request = {
    runAsUser: context?.runAsUser?.value,
    runAsGroup: context?.runAsGroup?.value,
    runAsUsername: context?.runAsUsername ?? '',
    imageUser: image.user,
    supplementalGroups: context?.supplementalGroups ?? [],
    policy: context?.supplementalGroupsPolicy === 'Strict' ? ('Strict' as const) : ('Merge' as const),
  };
  return resolveUser(request, { passwd: readRootfsFile(rootfs, 'etc/passwd'), group: readRootfsFile(rootfs, 'etc/group') });
}
