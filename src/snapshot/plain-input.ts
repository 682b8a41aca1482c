import { closeSync, constants, fstatSync, openSync } from 'node:fs';
import type { MessagePort } from 'node:worker_threads';
import { ClassifiedError } from '../base/errors.ts';
import type { GrowingBlob, LayerSource } from './snapshotter.ts';

export type Compression = 'gzip' | 'zstd' | 'none';

/** By media type (OCI image-spec, "Layer media types"; Docker's schema 2 gzip layers). invalidArgument for others. */
export function compressionOf(mediaType: string): Compression {
  if (/[+.]gzip$/.test(mediaType)) return 'gzip';
  if (/[+.]zstd$/.test(mediaType)) return 'zstd';
  if (/[.]tar$/.test(mediaType)) return 'none';
  throw new ClassifiedError('invalidArgument', `unpack layer: media type ${JSON.stringify(mediaType.slice(0, 100))} is not a layer's`);
}

/** What a thread reads a layer's blob from: part of its job. The descriptor stays the starter's to close. */
export interface PlainSource {
  readonly fd: number;
  readonly inflate: Compression;
  /** Of the blob, whole. */
  readonly sizeBytes: number;
  /** The blob grows, as this tells. */
  readonly port: MessagePort | undefined;
}

/** A layer's blob, opened for a thread that reads it, whole or as it comes. */
export class PlainInput implements Disposable {
  readonly source: PlainSource;

  private constructor(source: PlainSource) {
    this.source = source;
  }

  /** invalidArgument for what is no layer's media type; errors of open(2); whatever ended the fetch of the blob. */
  static async open(layer: LayerSource): Promise<PlainInput> {
    const inflate = compressionOf(layer.mediaType);
    const growing = (await layer.fetch?.begun)?.follow();
    if (growing !== undefined) return new PlainInput({ ...(growing satisfies GrowingBlob), inflate });
    await layer.fetch?.done;
    const fd = openSync(layer.blobPath, constants.O_RDONLY);
    return new PlainInput({ fd, inflate, sizeBytes: fstatSync(fd).size, port: undefined });
  }

  /** What of `source` is to be transferred. */
  get transfer(): readonly MessagePort[] {
    return this.source.port === undefined ? [] : [this.source.port];
  }

  [Symbol.dispose](): void {
    this.source.port?.close();
    closeSync(this.source.fd);
  }
}
