import { readFileSync } from 'node:fs';
import { Agent as HttpAgent, request as httpRequest } from 'node:http';
import type { IncomingMessage } from 'node:http';
import { Agent as HttpsAgent, request as httpsRequest } from 'node:https';
import { rootCertificates } from 'node:tls';
import { ClassifiedError, messageOf } from '../base/errors.ts';
import type { RegistryHost } from './hosts.ts';

const HEADER_TIMEOUT_MS = 30_000;
const MAX_REDIRECTS = 5;
const MAX_ERROR_BYTES = 1024;

export interface Ask {
  readonly method: 'GET' | 'HEAD' | 'POST';
  readonly url: string;
  readonly headers: Readonly<Record<string, string>>;
  readonly body?: string;
  readonly signal: AbortSignal;
}

const plainAgent = new HttpAgent({ keepAlive: true, maxSockets: 32 });
const agents = new Map<string, HttpsAgent>();

function agentOf(host: Pick<RegistryHost, 'ca' | 'client' | 'skipVerify'>): HttpsAgent {
  // Files are read anew when their content changed: the key holds it.
  const ca = host.ca.map((path) => readFileSync(path, 'utf8'));
  const client = host.client.map(([cert, key]) => ({ cert: readFileSync(cert, 'utf8'), key: readFileSync(key ?? cert, 'utf8') }));
  const key = JSON.stringify([ca, client, host.skipVerify]);
  const known = agents.get(key);
  if (known) return known;
  if (agents.size >= 64) agents.clear();
  const agent = new HttpsAgent({
    keepAlive: true,
    maxSockets: 32,
    rejectUnauthorized: !host.skipVerify,
    ...(ca.length > 0 ? { ca: [...rootCertificates, ...ca] } : {}),
    ...(client.length > 0 ? { cert: client.map((each) => each.cert).join('\n'), key: client.map((each) => each.key).join('\n') } : {}),
  });
  agents.set(key, agent);
  return agent;
}

/**
 * One request; redirects are followed, and what belongs to this host alone (Authorization, configured headers) does not go with them to another (S13).
 * unavailable: no answer. The body is the caller's to read or destroy.
 */
export async function ask(host: Pick<RegistryHost, 'ca' | 'client' | 'skipVerify'>, what: Ask): Promise<IncomingMessage> {
  let { url, headers } = what;
  for (let redirects = 0; ; redirects++) {
    const response = await once(host, { ...what, url, headers });
    const location = response.headers.location;
    const status = response.statusCode ?? 0;
    if (location === undefined || ![301, 302, 303, 307, 308].includes(status)) return response;
    response.resume();
    if (redirects >= MAX_REDIRECTS) throw new ClassifiedError('unavailable', `${originOf(url)} redirects without end`);
    const next = new URL(location, url);
    if (next.origin !== new URL(url).origin)
      headers = Object.fromEntries(Object.entries(headers).filter(([name]) => /^(accept|range|user-agent)$/i.test(name)));
    if (next.protocol !== 'https:' && next.protocol !== 'http:')
      throw new ClassifiedError('unavailable', `${originOf(url)} redirects to ${next.protocol}`);
    url = next.href;
  }
}

const originOf = (url: string): string => new URL(url).origin;

function once(
  host: Pick<RegistryHost, 'ca' | 'client' | 'skipVerify'>,
  { method, url, headers, body, signal }: Ask,
): Promise<IncomingMessage> {
  return new Promise((resolve, reject) => {
    const fail = (error: unknown): void =>
      reject(new ClassifiedError('unavailable', `${originOf(url)}: ${messageOf(error)}`, { cause: error }));
    const isTls = url.startsWith('https:');
    const options = { method, headers: { 'user-agent': 'gantry', ...headers }, signal };
    const request = isTls ? httpsRequest(url, { ...options, agent: agentOf(host) }) : httpRequest(url, { ...options, agent: plainAgent });
    request.setTimeout(HEADER_TIMEOUT_MS, () => request.destroy(new Error(`no answer within ${HEADER_TIMEOUT_MS} ms`)));
    request.on('response', (response) => {
      request.setTimeout(0);
      resolve(response);
    });
    request.on('error', fail);
    request.end(body);
  });
}

/** The body as far as `maxBytes`; resourceExhausted beyond. */
export async function bodyOf(response: IncomingMessage, maxBytes: number): Promise<Buffer> {
  const chunks: Buffer[] = [];
  let size = 0;
  try {
    for await (const chunk of response as AsyncIterable<Buffer>) {
      size += chunk.length;
      if (size > maxBytes) throw new ClassifiedError('resourceExhausted', `the answer has more than ${maxBytes} bytes`);
      chunks.push(chunk);
    }
  } finally {
    response.destroy();
  }
  return Buffer.concat(chunks);
}

/** What a registry said against it, in its own words (OCI distribution-spec, error codes). */
export async function refusal(response: IncomingMessage, what: string): Promise<ClassifiedError> {
  const status = response.statusCode ?? 0;
  const text = (await bodyOf(response, 64 * 1024).catch(() => Buffer.alloc(0))).toString('utf8').slice(0, MAX_ERROR_BYTES);
  const words = wordsOf(text);
  const kind =
    status === 404
      ? 'notFound'
      : status === 401 || status === 403
        ? 'permissionDenied'
        : status === 400
          ? 'invalidArgument'
          : 'unavailable';
  return new ClassifiedError(kind, `${what}: ${status}${words === '' ? '' : ` ${words}`}`, {
    detail: { status, retryAfter: response.headers['retry-after'] },
  });
}

function wordsOf(text: string): string {
  try {
    const { errors } = JSON.parse(text) as { errors?: Array<{ code?: string; message?: string }> };
    return (errors ?? []).map(({ code, message }) => [code, message].filter(Boolean).join(': ')).join('; ');
  } catch {
    return text.replace(/\s+/g, ' ').trim().slice(0, 200);
  }
}
