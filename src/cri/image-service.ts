import type { ImageStatusRequest__Output } from '../gen/cri/runtime/v1/ImageStatusRequest.ts';
import type { PullImageRequest__Output } from '../gen/cri/runtime/v1/PullImageRequest.ts';
import type { RemoveImageRequest__Output } from '../gen/cri/runtime/v1/RemoveImageRequest.ts';
import { inChunks } from './chunks.ts';
import type { ServiceDeps } from './deps.ts';
import type { ImageRows } from './server.ts';
import { serverStream } from './server-stream.ts';
import { unary } from './unary.ts';
import * as validate from './validate/index.ts';
import { filesystemView, imageView } from './view/image.ts';

/** CRI ImageService: one row per RPC. */
export function imageService({ images }: Pick<ServiceDeps, 'images'>): ImageRows {
  const select = (ref: string) => (ref === '' ? images.list() : [images.find(ref)].filter((image) => image !== undefined));
  return {
    ListImages: unary(validate.listImages, (_op, { filter }) => ({ images: select(filter?.image?.image ?? '').map(imageView) })),
    StreamImages: serverStream(validate.streamImages, (_op, { filter }) =>
      inChunks(select(filter?.image?.image ?? ''), imageView, (images) => ({ images })),
    ),
    // An image that is not there is an empty answer, not an error (CRI, ImageStatus).
    ImageStatus: unary(validate.imageOf<ImageStatusRequest__Output>, async (_op, request) => {
      const image = images.find(request.image.image);
      if (image === undefined) return {};
      const info = request.verbose
        ? { info: JSON.stringify({ chainID: image.topLayer, imageSpec: JSON.parse(await images.rawConfig(image.id)) as unknown }) }
        : {};
      return { image: imageView(image), info };
    }),
    PullImage: unary(validate.pullImage<PullImageRequest__Output>, async (op, { image, auth }) => ({
      imageRef: await images.pull(op, image.image, auth ?? undefined),
    })),
    RemoveImage: unary(validate.imageOf<RemoveImageRequest__Output>, async (op, { image }) => {
      await images.remove(op, image.image);
      return {};
    }),
    ImageFsInfo: unary(validate.imageFsInfo, async () => {
      const usage = filesystemView(await images.fsUsage());
      return { imageFilesystems: [usage], containerFilesystems: [usage] };
    }),
  };
}
