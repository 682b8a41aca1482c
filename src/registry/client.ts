import type { Digest } from '../base/digest.ts';
import { digestOf } from '../base/digest.ts';
import { ClassifiedError } from '../base/errors.ts';
import type { Op } from '../base/op.ts';
import { throwIfOver } from '../base/op.ts';
import type { Answer, Connection, Ask } from '../os/http-client.ts';
import { ask, isContent } from '../os/http-client.ts';
import type { Credentials } from './auth.ts';
import type { BlobRequest } from './blob-fetch.ts';
import { BlobFetch } from './blob-fetch.ts';
import { Authorizer } from './auth.ts';
import type { RegistryHost } from './hosts.ts';
import { hostsOf } from './hosts.ts';
import { isUnreachable, retried } from './retry.ts';
import { refusal } from './refusal.ts';

/** A manifest or index as the registry served it. */
export interface Document {
  readonly mediaType: string;
  readonly digest: Digest;
  readonly bytes: Buffer;
}

const STALL_MS = 30_000;

export interface RepositoryOptions {
  readonly hostsDir: string;
  readonly registry: string;
  readonly repository: string;
  readonly credentials: Credentials | undefined;
  /** No byte for this long and another connection is tried (R35). Default: 30 s. */
  readonly stallMs?: number;
}

/**
 * One repository on one registry, by way of its mirrors. Every host is tried in order, transient failures (429, 5xx, a broken connection) more than once;
 * the error of the last one tells, the others are in its message. A host that could not be reached is asked after the others from then on.
 * Credentials are the registry's: mirrors with another host name don't get them.
 */
export class RepositoryClient {
  readonly #hosts: readonly RegistryHost[];
  readonly #repository: string;
  readonly #stallMs: number;
  readonly #own: Authorizer;
  readonly #mirrors = new Authorizer(undefined);
  readonly #unreachable = new Set<RegistryHost>();

  constructor(options: RepositoryOptions) {
    this.#stallMs = options.stallMs ?? STALL_MS;
    this.#hosts = hostsOf(options.hostsDir, options.registry);
    this.#repository = options.repository;
    this.#own = new Authorizer(options.credentials);
  }

  /** By tag or digest; a digest is verified. notFound, permissionDenied, unavailable, dataLoss. */
  async manifest(op: Op, reference: string, options: { accept: readonly string[]; maxBytes: number }): Promise<Document> {
    const isDigest = reference.startsWith('sha256:');
    const headers = { accept: options.accept.join(', ') };
    const get = async (host: RegistryHost): Promise<Document> => {
      const answer = await this.#get(op, host, { path: `manifests/${reference}`, headers, ask });
      const bytes = await answer.body(options.maxBytes);
      const digest = digestOf(bytes);
      if (isDigest && digest !== reference)
        throw new ClassifiedError('dataLoss', `manifest ${reference}: ${new URL(host.url).origin} served ${digest}`);
      return { bytes, digest, mediaType: (answer.headers['content-type'] ?? '').split(';')[0]?.trim() ?? '' };
    };
    return this.#onEachHost(op, isDigest ? 'pull' : 'resolve', (host) => retried(op, () => get(host)));
  }

  /** Gives a blob to a sink and commits it. What hosts serve and is not the blob, the next one is asked for. */
  async blob(op: Op, request: BlobRequest): Promise<void> {
    const fetch = new BlobFetch(request, this.#stallMs);
    const path = `blobs/${request.digest}`;
    await this.#onEachHost(op, 'pull', (host) =>
      fetch.from(op, (each, headers, askBlob) => this.#get(each, host, { path, headers, ask: askBlob })),
    );
  }

  async #onEachHost<T>(op: Op, capability: 'resolve' | 'pull', work: (host: RegistryHost) => Promise<T>): Promise<T> {
    const failures: string[] = [];
    let last: ClassifiedError | undefined;
    const hosts = this.#hosts.filter((each) => each[capability]);
    for (const host of hosts.sort((a, b) => Number(this.#unreachable.has(a)) - Number(this.#unreachable.has(b)))) {
      try {
        return await work(host);
      } catch (error) {
        throwIfOver(op);
        // Our own disk: no other host has a better one.
        if (!(error instanceof ClassifiedError)) throw error;
        if (isUnreachable(error)) this.#unreachable.add(host);
        const { origin } = new URL(host.url);
        failures.push(error.message.includes(origin) ? error.message : `${origin}: ${error.message}`);
        last = error;
        op.log.debug({ host: host.url, err: error.message }, 'registry host failed');
      }
    }
    if (last === undefined) throw new ClassifiedError('failedPrecondition', `no host for ${this.#repository} can ${capability}`);
    throw new ClassifiedError(last.kind, failures.join('; '), { cause: last });
  }

  async #get<A extends Answer>(op: Op, host: RegistryHost, { path, ask: how, ...what }: Get<A>): Promise<A> {
    const authorizer = host.namespace === undefined ? this.#own : this.#mirrors;
    const scope = `repository:${this.#repository}:pull`;
    const query = host.namespace === undefined ? '' : `?ns=${encodeURIComponent(host.namespace)}`;
    const url = `${host.url}/${this.#repository}/${path}${query}`;
    for (let challenged = false; ; challenged = true) {
      const authorization = authorizer.header(host, scope);
      const headers = { ...host.headers, ...what.headers, ...(authorization === '' ? {} : { authorization }) };
      const answer = await how(host, { method: 'GET', url, headers, signal: op.signal });
      if (isContent(answer.status)) return answer;
      // Once: a token server may give out new tokens for ever that open nothing.
      if (answer.status === 401 && !challenged && (await authorizer.challenge(host, scope, answer, op.signal))) {
        answer.drop();
        continue;
      }
      throw await refusal(answer, `get ${url}`);
    }
  }
}

interface Get<A> {
  readonly path: string;
  readonly headers: Readonly<Record<string, string>>;
  readonly ask: (host: Connection, what: Ask) => Promise<A>;
}
