import type { FilesystemUsage } from '../../gen/cri/runtime/v1/FilesystemUsage.ts';
import type { Image as ImageView } from '../../gen/cri/runtime/v1/Image.ts';
import type { Image, ImageFsUsage } from '../../image/image.ts';
import { nowNs } from '../../base/ids.ts';

const MAX_UINT32 = 0xffff_ffff;

/** Image -> CRI Image. `USER 1000:1000` is told as a uid, `USER www` as a username (the kubelet checks runAsNonRoot with them). */
export function imageView(image: Image): ImageView {
  const user = image.config.user.split(':')[0] ?? '';
  const isNumber = /^\d+$/.test(user) && Number(user) <= MAX_UINT32;
  return {
    id: image.id,
    repoTags: [...image.repoTags],
    repoDigests: [...image.repoDigests],
    size: image.sizeBytes,
    uid: isNumber ? { value: user } : null,
    username: isNumber ? '' : user,
    spec: { image: image.id },
    pinned: image.pinned,
  };
}

export const filesystemView = (usage: ImageFsUsage): FilesystemUsage => ({
  timestamp: String(nowNs()),
  fsId: { mountpoint: usage.mountpoint },
  usedBytes: { value: usage.usedBytes },
  inodesUsed: { value: usage.inodesUsed },
});
