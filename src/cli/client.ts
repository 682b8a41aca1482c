import { fileURLToPath } from 'node:url';
import type { ServiceError } from '@grpc/grpc-js';
import { credentials, loadPackageDefinition } from '@grpc/grpc-js';
import { loadSync } from '@grpc/proto-loader';
import type { ProtoGrpcType } from '../gen/cri/runtime-v1.ts';
import type { Image__Output } from '../gen/cri/runtime/v1/Image.ts';
import type { ProtoGrpcType as GantryProto } from '../gen/gantry/gantry-v1.ts';
import type { Pull__Output } from '../gen/gantry/gantry/v1/Pull.ts';
import type { WatchPullsResponse__Output } from '../gen/gantry/gantry/v1/WatchPullsResponse.ts';
import { ClassifiedError } from '../base/errors.ts';

const PROTOS = ['runtime-v1.proto', 'gantry-v1.proto'].map((name) => fileURLToPath(new URL(`../../proto/${name}`, import.meta.url)));

/** The calls that the command line makes of a daemon. Errors are told in the daemon's words. */
export interface Client extends Disposable {
  /** The image's id. */
  pull(image: string): Promise<string>;
  images(): Promise<Image__Output[]>;
  /** Calls back several times a second while anything is pulled, until the result is disposed of. */
  watchPulls(seen: (pulls: readonly Pull__Output[]) => void): Disposable;
}

export function connect(socket: string): Client {
  const definition = loadSync(PROTOS, { longs: String, enums: String, defaults: true, arrays: true, objects: true, oneofs: true });
  const loaded = loadPackageDefinition(definition) as unknown as ProtoGrpcType & GantryProto;
  const target = `unix:${socket}`;
  const images = new loaded.runtime.v1.ImageService(target, credentials.createInsecure(), { 'grpc.max_receive_message_length': -1 });
  const gantry = new loaded.gantry.v1.Gantry(target, credentials.createInsecure());
  return {
    pull: (image) =>
      new Promise((resolve, reject) => {
        images.pullImage({ image: { image } }, (error, answer) => (answer ? resolve(answer.imageRef) : reject(told(socket, error))));
      }),
    images: () =>
      new Promise((resolve, reject) => {
        images.listImages({}, (error, answer) => (answer ? resolve(answer.images) : reject(told(socket, error))));
      }),
    watchPulls(seen) {
      const stream = gantry.watchPulls({});
      stream.on('data', ({ pulls }: WatchPullsResponse__Output) => seen(pulls));
      // Only what is shown depends on it.
      stream.on('error', () => undefined);
      return { [Symbol.dispose]: () => stream.cancel() };
    },
    [Symbol.dispose]() {
      images.close();
      gantry.close();
    },
  };
}

const UNAVAILABLE = 14;

function told(socket: string, error: ServiceError | null): ClassifiedError {
  if (error?.code === UNAVAILABLE && error.details.startsWith('No connection'))
    return new ClassifiedError('unavailable', `no gantry answers on ${socket}`, { cause: error });
  return new ClassifiedError('internal', error?.details ?? 'an empty answer', { cause: error });
}
