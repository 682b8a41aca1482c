import type { AuthConfig__Output } from '../../gen/cri/runtime/v1/AuthConfig.ts';
import type { ImageSpec__Output } from '../../gen/cri/runtime/v1/ImageSpec.ts';
import { noNul, nonEmpty, required } from './fields.ts';

/** Of ImageStatus, RemoveImage and PullImage. */
export function imageOf<T extends { image: ImageSpec__Output | null }>(request: T): T & { image: ImageSpec__Output } {
  const image = required(request.image, 'image');
  nonEmpty(image.image, 'image.image');
  return { ...request, image };
}

export function pullImage<T extends { image: ImageSpec__Output | null; auth: AuthConfig__Output | null }>(
  request: T,
): T & { image: ImageSpec__Output } {
  for (const [key, value] of Object.entries(request.auth ?? {})) noNul(value, `auth.${key}`);
  return imageOf(request);
}
