import { readFileSync } from 'node:fs';
import type { IncomingHttpHeaders, IncomingMessage } from 'node:http';
import { Agent as HttpsAgent, request as httpsRequest } from 'node:https';
import { ClassifiedError, errnoOf, messageOf } from '../base/errors.ts';
import { request as httpRequest, rootCertificates } from '../base/node-http.ts';
import { OneBufferAgent, TunnelAgent } from './http-agent.ts';
import { proxyOf } from './http-proxy.ts';
import type { Receiving, Write } from './http-receive.ts';
import { passOver, receive } from './http-receive.ts';
import { Patience } from './patience.ts';

const HEADER_TIMEOUT_MS = 30_000;
const CONNECT_TIMEOUT_MS = 10_000;
const BODY_STALL_MS = 30_000;
/** Another connection a moment later would not do better: nobody listens, no such name, a certificate that is not trusted. */
const UNREACHABLE =
  /^(ENOTFOUND|ECONNREFUSED|EAI_AGAIN|EHOSTUNREACH|ENETUNREACH|ETIMEDOUT|EPROTO|CERT_.*|SELF_SIGNED.*|DEPTH_ZERO.*|UNABLE_TO.*|ERR_(TLS|SSL)_.*)$/;
const MAX_REDIRECTS = 5;

export interface Ask {
  readonly method: 'GET' | 'HEAD' | 'POST';
  readonly url: string;
  readonly headers: Readonly<Record<string, string>>;
  readonly body?: string;
  readonly signal: AbortSignal;
}

/** How a host is connected to. */
export interface Connection {
  /** Files with certificates that are trusted besides those that Node brings along. */
  readonly ca: readonly string[];
  /** [certificate, key] files; no key: it is in the certificate's file. */
  readonly client: ReadonlyArray<readonly [string, string | undefined]>;
  readonly skipVerify: boolean;
  /** How long to wait for a connection; undefined: our own patience. */
  readonly connectTimeoutMs: number | undefined;
}

const plainAgents = new Map<string | undefined, OneBufferAgent>();
const agents = new Map<string, HttpsAgent>();

function plainAgentOf(proxy: string | undefined): OneBufferAgent {
  const known = plainAgents.get(proxy);
  if (known) return known;
  const agent = new OneBufferAgent({
    keepAlive: true,
    maxSockets: 32,
    ...(proxy === undefined ? {} : { proxyEnv: { http_proxy: proxy } }),
  });
  plainAgents.set(proxy, agent);
  return agent;
}

function agentOf(host: Connection, proxy: string | undefined): HttpsAgent {
  // Files are read anew when their content changed: the key holds it.
  const ca = host.ca.map((path) => readFileSync(path, 'utf8'));
  const client = host.client.map(([cert, key]) => ({ cert: readFileSync(cert, 'utf8'), key: readFileSync(key ?? cert, 'utf8') }));
  const key = JSON.stringify([ca, client, host.skipVerify, proxy]);
  const known = agents.get(key);
  if (known) return known;
  if (agents.size >= 64) agents.clear();
  const options = {
    keepAlive: true,
    maxSockets: 32,
    rejectUnauthorized: !host.skipVerify,
    ...(ca.length > 0 ? { ca: [...rootCertificates(), ...ca] } : {}),
    ...(client.length > 0 ? { cert: client.map((each) => each.cert).join('\n'), key: client.map((each) => each.key).join('\n') } : {}),
  };
  const agent = proxy === undefined ? new HttpsAgent(options) : new TunnelAgent(proxy, options);
  agents.set(key, agent);
  return agent;
}

/** What a host answered; its body is to be had once. */
export interface Answer {
  readonly status: number;
  readonly headers: IncomingHttpHeaders;
  /** resourceExhausted beyond `maxBytes`, unavailable when it breaks off or stalls. */
  body(maxBytes: number): Promise<Buffer>;
  /** Nobody wants the body, and nobody waits for its end. */
  drop(): void;
}

/** An answer whose body goes to where a blob is written (`receive` in os/http-receive). */
export interface BlobAnswer extends Answer {
  receive(what: Receiving): Promise<boolean>;
}

/** A request that is answered with a piece of a blob, or refused. */
export type AskBlob = (host: Connection, what: Ask) => Promise<BlobAnswer>;

/** The answer is what was asked for, or a range of it. */
export const isContent = (status: number): boolean => status === 200 || status === 206;

class HttpAnswer implements BlobAnswer {
  readonly status: number;
  readonly headers: IncomingHttpHeaders;
  readonly #response: IncomingMessage;
  readonly #write: Write;

  constructor(response: IncomingMessage, write: Write) {
    this.status = response.statusCode ?? 0;
    this.headers = response.headers;
    this.#response = response;
    this.#write = write;
  }

  async body(maxBytes: number): Promise<Buffer> {
    const chunks: Buffer[] = [];
    let size = 0;
    using patience = new Patience(BODY_STALL_MS, () => this.#response.destroy(new Error(`no byte for ${BODY_STALL_MS} ms`)));
    try {
      for await (const chunk of this.#response as AsyncIterable<Buffer>) {
        patience.heard();
        size += chunk.length;
        if (size > maxBytes) throw new ClassifiedError('resourceExhausted', `the answer has more than ${maxBytes} bytes`);
        chunks.push(chunk);
      }
    } catch (error) {
      if (error instanceof ClassifiedError) throw error;
      throw new ClassifiedError('unavailable', `the connection broke: ${messageOf(error)}`, { cause: error });
    } finally {
      this.#response.destroy();
    }
    return Buffer.concat(chunks);
  }

  drop(): void {
    passOver(this.#response);
  }

  receive(what: Receiving): Promise<boolean> {
    return receive(this.#response, what, this.#write);
  }
}

/** For documents, which are read whole. */
export const ask = (host: Connection, what: Ask): Promise<Answer> => askInto(() => undefined)(host, what);

/**
 * One request; redirects are followed, and what belongs to this host alone (Authorization, configured headers, client certificates) does not go with them
 * to another (S13). unavailable: no answer; `detail.isUnreachable` where asking again is no use. The body is the caller's to read or drop.
 */
export const askInto =
  (write: Write): AskBlob =>
  async (host, what) => {
    let { url, headers } = what;
    let connection = host;
    for (let redirects = 0; ; redirects++) {
      const response = await once(connection, { ...what, url, headers });
      const location = response.headers.location;
      const status = response.statusCode ?? 0;
      if (location === undefined || ![301, 302, 303, 307, 308].includes(status)) return new HttpAnswer(response, write);
      passOver(response);
      if (redirects >= MAX_REDIRECTS) throw new ClassifiedError('unavailable', `${originOf(url)} redirects without end`);
      const next = new URL(location, url);
      if (next.origin !== new URL(url).origin) {
        headers = Object.fromEntries(Object.entries(headers).filter(([name]) => /^(accept|range|user-agent)$/i.test(name)));
        connection = { ...connection, client: [] };
      }
      if (next.protocol !== 'https:' && next.protocol !== 'http:')
        throw new ClassifiedError('unavailable', `${originOf(url)} redirects to ${next.protocol}`);
      url = next.href;
    }
  };

const originOf = (url: string): string => new URL(url).origin;

function once(host: Connection, { method, url, headers, body, signal }: Ask): Promise<IncomingMessage> {
  return new Promise((resolve, reject) => {
    const isTls = url.startsWith('https:');
    const options = { method, headers: { 'user-agent': 'gantry', ...headers } };
    const proxy = proxyOf(new URL(url));
    const request = isTls
      ? httpsRequest(url, { ...options, agent: agentOf(host, proxy) })
      : httpRequest(url, { ...options, agent: plainAgentOf(proxy) });
    // Not by the events of the request alone: one that waits for its connection tells nothing of its end.
    const fail = (error: unknown, isUnreachable: boolean): void => {
      patience[Symbol.dispose]();
      reject(new ClassifiedError('unavailable', `${originOf(url)}: ${messageOf(error)}`, { cause: error, detail: { isUnreachable } }));
    };
    const within = (ms: number, what: string): Patience =>
      new Patience(ms, () => {
        const error = new Error(`no ${what} within ${ms} ms`);
        fail(error, true);
        request.destroy(error);
      });
    let patience = within(host.connectTimeoutMs ?? CONNECT_TIMEOUT_MS, 'connection');
    const connected = (): void => {
      patience[Symbol.dispose]();
      patience = within(HEADER_TIMEOUT_MS, 'answer');
    };
    const aborted = (): void => {
      const error = new Error('the request was aborted');
      fail(error, false);
      request.destroy(error);
    };
    signal.addEventListener('abort', aborted, { once: true });
    request.on('socket', (socket) => {
      if (socket.connecting) socket.once(isTls ? 'secureConnect' : 'connect', connected);
      else connected();
    });
    request.on('response', (response) => {
      patience[Symbol.dispose]();
      resolve(response);
    });
    request.on('error', (error) => fail(error, UNREACHABLE.test(errnoOf(error) ?? '')));
    // After its response, or without one: of another protocol that was not asked for nothing else is told.
    request.on('close', () => {
      signal.removeEventListener('abort', aborted);
      fail(new Error('the connection was closed'), false);
    });
    if (signal.aborted) aborted();
    request.end(body);
  });
}
