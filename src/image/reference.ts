import { invalidArgument } from '../base/errors.ts';
import type { Digest } from '../base/digest.ts';
import { isDigest } from '../base/digest.ts';

/** `host[:port]/path[:tag][@digest]` in full. */
export interface Reference {
  readonly host: string;
  readonly repository: string;
  /** undefined only beside a digest. */
  readonly tag: string | undefined;
  readonly digest: Digest | undefined;
}

const HOST = /^(localhost|[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)*\.?|\[[0-9a-fA-F:]+\])(:\d{1,5})?$/;
const REPOSITORY = /^[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(\/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*$/;
const TAG = /^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$/;
const MAX_NAME = 255;

/**
 * The distribution grammar. A first part with a dot, a colon or `localhost` is a host; otherwise it is Docker Hub, whose one-part names are in `library/`.
 * Without tag and digest the tag is `latest`. invalidArgument names image.image.
 */
export function parseReference(text: string): Reference {
  const fail = (why: string): never => {
    throw invalidArgument('image.image', `${JSON.stringify(text.slice(0, 300))} ${why}`);
  };
  const [nameAndTag = '', digest, ...more] = text.split('@');
  if (more.length > 0) fail('has more than one "@"');
  if (digest !== undefined && !isDigest(digest)) fail('has a digest that is not sha256:<64 hex digits>');
  const slash = nameAndTag.indexOf('/');
  const first = slash < 0 ? '' : nameAndTag.slice(0, slash);
  const hasHost = first === 'localhost' || /[.:]/.test(first);
  const rest = hasHost ? nameAndTag.slice(slash + 1) : nameAndTag;
  const colon = rest.lastIndexOf(':');
  const path = colon < 0 ? rest : rest.slice(0, colon);
  const tag = colon < 0 ? undefined : rest.slice(colon + 1);
  const host = hasHost ? (first === 'index.docker.io' ? 'docker.io' : first) : 'docker.io';
  const repository = host === 'docker.io' && !path.includes('/') ? `library/${path}` : path;
  if (!HOST.test(host)) fail('has no valid host');
  if (path === '' || !REPOSITORY.test(repository)) fail('is not a valid image name');
  if (repository.length > MAX_NAME) fail('is too long');
  if (tag !== undefined && !TAG.test(tag)) fail('has no valid tag');
  return { host, repository, tag: tag ?? (digest === undefined ? 'latest' : undefined), digest: digest as Digest | undefined };
}

/** `host/repository:tag`, if it has a tag. */
export const tagName = ({ host, repository, tag }: Reference): string | undefined =>
  tag === undefined ? undefined : `${host}/${repository}:${tag}`;

export const digestName = ({ host, repository }: Reference, digest: Digest): string => `${host}/${repository}@${digest}`;

/** The full name that a reference is kept under; beside a digest its tag is only a comment. */
export const nameOf = (reference: Reference): string =>
  reference.digest === undefined ? (tagName(reference) ?? '') : digestName(reference, reference.digest);
