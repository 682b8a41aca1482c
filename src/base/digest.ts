import { createHash } from 'node:crypto';
import { ClassifiedError } from './errors.ts';

/** `sha256:<64 hex>` (OCI image-spec, descriptor digests); other algorithms are refused. */
export type Digest = `sha256:${string}`;

const DIGEST = /^sha256:[0-9a-f]{64}$/;

export const isDigest = (text: string): text is Digest => DIGEST.test(text);

export function parseDigest(text: string, what: string): Digest {
  if (!isDigest(text))
    throw new ClassifiedError('invalidArgument', `${what}: ${JSON.stringify(text.slice(0, 100))} is not a sha256 digest`);
  return text;
}

export const digestOf = (bytes: string | Uint8Array): Digest => `sha256:${createHash('sha256').update(bytes).digest('hex')}`;

export const hexOf = (digest: Digest): string => digest.slice('sha256:'.length);

/** Identity of a layer on top of its parents (OCI image-spec, "Layer ChainID"). */
export function chainIdOf(parent: Digest | undefined, diffId: Digest): Digest {
  return parent === undefined ? diffId : digestOf(`${parent} ${diffId}`);
}
