import { ClassifiedError } from '../base/errors.ts';
import type { Answer } from '../os/http-client.ts';
import { ask } from '../os/http-client.ts';
import type { RegistryHost } from './hosts.ts';
import { refusal } from './refusal.ts';

/** CRI AuthConfig in the registry's terms. */
export interface Credentials {
  readonly username: string;
  readonly password: string;
  /** OAuth2 refresh token. */
  readonly identityToken: string;
  /** Sent as it is. */
  readonly registryToken: string;
}

const MAX_TOKEN_BYTES = 1024 * 1024;
const MAX_TOKENS = 200;
const DEFAULT_LIFE_S = 60;

interface Token {
  readonly header: string;
  readonly untilMs: number;
}

/** Authorization headers for one pull: found by asking, kept per host and scope until they expire. */
export class Authorizer {
  readonly #credentials: Credentials | undefined;
  readonly #tokens = new Map<string, Token>();

  constructor(credentials: Credentials | undefined) {
    this.#credentials = credentials;
  }

  /** What is known to work, "" at first. */
  header(host: RegistryHost, scope: string): string {
    const token = this.#tokens.get(`${host.url} ${scope}`);
    return token && token.untilMs > Date.now() ? token.header : '';
  }

  /** Answers a 401 (RFC 9110, Docker's token specification). false: there is nothing more to try. */
  async challenge(host: RegistryHost, scope: string, answer: Answer, signal: AbortSignal): Promise<boolean> {
    const challenges = parseChallenges(answer.headers['www-authenticate'] ?? '');
    const before = this.header(host, scope);
    const bearer = challenges.get('bearer');
    const next = this.#credentials?.registryToken
      ? { header: `Bearer ${this.#credentials.registryToken}`, untilMs: Infinity }
      : bearer
        ? await this.#fetchToken(host, { scope, ...Object.fromEntries(bearer) }, signal)
        : challenges.has('basic') && this.#credentials?.username
          ? { header: basic(this.#credentials), untilMs: Infinity }
          : undefined;
    if (next === undefined || next.header === before) return false;
    if (this.#tokens.size >= MAX_TOKENS) this.#tokens.clear();
    this.#tokens.set(`${host.url} ${scope}`, next);
    return true;
  }

  async #fetchToken(
    host: RegistryHost,
    challenge: { realm?: string; service?: string; scope: string },
    signal: AbortSignal,
  ): Promise<Token> {
    const { realm = '', service = '', scope } = challenge;
    if (!URL.canParse(realm)) throw new ClassifiedError('unavailable', `${new URL(host.url).origin}: its challenge names no realm`);
    const url = new URL(realm);
    const credentials = this.#credentials;
    const isSecret = Boolean(credentials?.username) || Boolean(credentials?.identityToken);
    const isClear = new URL(host.url).protocol !== 'https:';
    // A token service elsewhere is named by the registry that we trust with these credentials; over plain HTTP only the registry itself may have them.
    // Without any, one in the clear will do for a registry that is in the clear.
    if (url.protocol !== 'https:' && url.hostname !== new URL(host.url).hostname && (isSecret || !isClear)) {
      throw new ClassifiedError('permissionDenied', `${new URL(host.url).origin}: its token service ${url.origin} is not on https`);
    }
    const query = new URLSearchParams({ ...(service ? { service } : {}), scope });
    const asks = credentials?.identityToken
      ? {
          method: 'POST' as const,
          url: url.href,
          headers: { 'content-type': 'application/x-www-form-urlencoded' },
          body: new URLSearchParams({
            ...Object.fromEntries(query),
            grant_type: 'refresh_token',
            client_id: 'gantry',
            refresh_token: credentials.identityToken,
          }).toString(),
        }
      : {
          method: 'GET' as const,
          url: withQuery(url, query),
          headers: credentials?.username ? { authorization: basic(credentials) } : ({} as Record<string, string>),
        };
    const answer = await ask(host, { ...asks, signal });
    if (answer.status !== 200) throw await refusal(answer, `get a token from ${url.origin}`);
    const { token, access_token, expires_in } = parsed(await answer.body(MAX_TOKEN_BYTES));
    const text = typeof token === 'string' && token !== '' ? token : access_token;
    if (typeof text !== 'string' || text === '') throw new ClassifiedError('unavailable', `${url.origin}: its answer has no token`);
    const lifeS = typeof expires_in === 'number' && expires_in > 0 ? expires_in : DEFAULT_LIFE_S;
    return { header: `Bearer ${text}`, untilMs: Date.now() + Math.max(1, lifeS - 5) * 1000 };
  }
}

// Whatever is not a JSON object holds no token.
function parsed(bytes: Buffer): Record<string, unknown> {
  try {
    return { ...(JSON.parse(bytes.toString('utf8')) as object | null) };
  } catch {
    return {};
  }
}

const withQuery = (url: URL, query: URLSearchParams): string => {
  const full = new URL(url);
  for (const [name, value] of query) full.searchParams.append(name, value);
  return full.href;
};

const basic = ({ username, password }: Credentials): string => `Basic ${Buffer.from(`${username}:${password}`).toString('base64')}`;

/** `WWW-Authenticate`: scheme -> parameters, names in lower case. */
export function parseChallenges(header: string): Map<string, Map<string, string>> {
  const challenges = new Map<string, Map<string, string>>();
  let current: Map<string, string> | undefined;
  for (const [, scheme, name, quoted, plain] of header.matchAll(
    /(?:^|,\s*|\s)(?:([A-Za-z]+)(?=\s+[A-Za-z_]+=|\s*$|\s*,)|([A-Za-z_]+)=(?:"([^"]*)"|([^\s,"]+)))/g,
  )) {
    if (scheme !== undefined) challenges.set(scheme.toLowerCase(), (current = new Map()));
    else if (name !== undefined) current?.set(name.toLowerCase(), quoted ?? plain ?? '');
  }
  return challenges;
}
