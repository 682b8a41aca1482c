import type { IncomingMessage } from 'node:http';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Digest } from '../base/digest.ts';
import { digestOf } from '../base/digest.ts';
import { ClassifiedError, messageOf } from '../base/errors.ts';
import type { Op } from '../base/op.ts';
import { throwIfOver } from '../base/op.ts';
import type { Credentials } from './auth.ts';
import { Authorizer } from './auth.ts';
import type { RegistryHost } from './hosts.ts';
import { hostsOf } from './hosts.ts';
import { ask, bodyOf, refusal } from './transport.ts';

/** A manifest or index as the registry served it. */
export interface Document {
  readonly mediaType: string;
  readonly digest: Digest;
  readonly bytes: Buffer;
}

/** Takes one blob from one host: `write` in order, then `commit`, which verifies. */
export interface BlobSink {
  /** The chunk is the sink's from now on. */
  write(chunk: Uint8Array): Promise<void>;
  /** dataLoss when it is not the blob that was asked for. */
  commit(): Promise<unknown>;
}

const TRIES = 4;
const FIRST_WAIT_MS = 250;
const MAX_WAIT_MS = 10_000;
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
    return this.#onEachHost(op, isDigest ? 'pull' : 'resolve', (host) => async () => {
      const response = await this.#get(op, host, { path: `manifests/${reference}`, headers: { accept: options.accept.join(', ') } });
      const bytes = await bodyOf(response, options.maxBytes);
      const digest = digestOf(bytes);
      if (isDigest && digest !== reference)
        throw new ClassifiedError('dataLoss', `manifest ${reference}: ${new URL(host.url).origin} served ${digest}`);
      return { bytes, digest, mediaType: (response.headers['content-type'] ?? '').split(';')[0]?.trim() ?? '' };
    });
  }

  /**
   * Gives a blob to a sink and commits it; after a broken connection it goes on where it was, if the host can, and else begins another. What one host serves
   * and is not the blob, the next one is asked for.
   */
  async blob(op: Op, blob: { digest: Digest; sizeBytes: number }, begin: () => Promise<BlobSink>): Promise<void> {
    await this.#onEachHost(op, 'pull', (host) => {
      let sink: BlobSink | undefined;
      let at = 0;
      return async () => {
        const response = await this.#get(op, host, { path: `blobs/${blob.digest}`, headers: at > 0 ? { range: `bytes=${at}-` } : {} });
        const goesOn = at > 0 && response.statusCode === 206;
        if (!goesOn || sink === undefined) {
          sink = await begin();
          at = 0;
        }
        for await (const chunk of stallGuarded(response, op, this.#stallMs)) {
          const { length } = chunk;
          await sink.write(chunk);
          at += length;
        }
        if (at < blob.sizeBytes)
          throw new ClassifiedError('unavailable', `blob ${blob.digest}: the connection ended after ${at} of ${blob.sizeBytes} bytes`);
        await sink.commit();
      };
    });
  }

  /** `work` makes the attempt at a host that is repeated while its failures pass. */
  async #onEachHost<T>(op: Op, capability: 'resolve' | 'pull', work: (host: RegistryHost) => () => Promise<T>): Promise<T> {
    const failures: string[] = [];
    let last: ClassifiedError | undefined;
    const hosts = this.#hosts.filter((each) => each[capability]);
    for (const host of hosts.sort((a, b) => Number(this.#unreachable.has(a)) - Number(this.#unreachable.has(b)))) {
      try {
        return await retried(op, work(host));
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

  async #get(op: Op, host: RegistryHost, what: { path: string; headers: Readonly<Record<string, string>> }): Promise<IncomingMessage> {
    const authorizer = host.namespace === undefined ? this.#own : this.#mirrors;
    const scope = `repository:${this.#repository}:pull`;
    const query = host.namespace === undefined ? '' : `?ns=${encodeURIComponent(host.namespace)}`;
    const url = `${host.url}/${this.#repository}/${what.path}${query}`;
    for (let challenged = false; ; challenged = true) {
      const authorization = authorizer.header(host, scope);
      const headers = { ...host.headers, ...what.headers, ...(authorization === '' ? {} : { authorization }) };
      const response = await ask(host, { method: 'GET', url, headers, signal: op.signal });
      if (response.statusCode === 200 || response.statusCode === 206) return response;
      // Once: a token server may give out new tokens for ever that open nothing.
      if (response.statusCode === 401 && !challenged && (await authorizer.challenge(host, scope, response, op.signal))) {
        response.resume();
        continue;
      }
      throw await refusal(response, `get ${url}`);
    }
  }
}

async function retried<T>(op: Op, work: () => Promise<T>): Promise<T> {
  for (let tried = 1; ; tried++) {
    try {
      return await work();
    } catch (error) {
      if (op.signal.aborted || tried >= TRIES || !isTransient(error)) throw error;
      const asked = error instanceof ClassifiedError ? Number(error.detail?.['retryAfter'] ?? 0) * 1000 : 0;
      await sleep(Math.min(MAX_WAIT_MS, Math.max(asked || 0, FIRST_WAIT_MS * 2 ** (tried - 1))), undefined, { signal: op.signal });
    }
  }
}

/** No connection, or no answer on it. A name that does not resolve or a port where nobody listens is not worth waiting for: the next host is. */
const isUnreachable = (error: ClassifiedError): boolean => error.detail?.['isUnreachable'] === true;

function isTransient(error: unknown): boolean {
  if (!(error instanceof ClassifiedError) || error.kind !== 'unavailable' || isUnreachable(error)) return false;
  const status = error.detail?.['status'];
  return status === undefined || status === 429 || (typeof status === 'number' && status >= 500);
}

async function* stallGuarded(response: IncomingMessage, op: Op, stallMs: number): AsyncGenerator<Buffer> {
  // Time spent writing to our own disk is not the registry's: the clock runs only while we wait for it.
  const wait = (): NodeJS.Timeout => setTimeout(() => response.destroy(new Error(`no byte for ${stallMs} ms`)), stallMs);
  let timer = wait();
  try {
    for await (const chunk of response as AsyncIterable<Buffer>) {
      clearTimeout(timer);
      throwIfOver(op);
      yield chunk;
      timer = wait();
    }
  } catch (error) {
    throw error instanceof ClassifiedError
      ? error
      : new ClassifiedError('unavailable', `the connection broke: ${messageOf(error)}`, { cause: error });
  } finally {
    clearTimeout(timer);
    response.destroy();
  }
}
