import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { isAbsolute, join } from 'node:path';
import { parse } from 'smol-toml';
import { ClassifiedError, messageOf } from '../base/errors.ts';
import type { Connection } from '../os/http-client.ts';

/** One place where a repository's content may be had. */
export interface RegistryHost extends Connection {
  /** Scheme, host, port and the API prefix, without a slash at the end: `https://mirror.example/v2`. */
  readonly url: string;
  readonly resolve: boolean;
  readonly pull: boolean;
  readonly headers: Readonly<Record<string, string>>;
  /** The name that a mirror is asked for (`ns=`); undefined for the registry itself. */
  readonly namespace: string | undefined;
}

const CAPABILITIES = ['pull', 'resolve', 'push'];
const KEYS = new Set(['server', 'host', 'capabilities', 'ca', 'client', 'skip_verify', 'override_path', 'header', 'dial_timeout']);

/**
 * The hosts of a registry in the order they are asked: mirrors of `<dir>/<host>/hosts.toml` (else `_default`'s), then the server; without such a file the
 * server alone, with the certificates that lie there. Read anew at each pull.
 * failedPrecondition names the file and the key that is wrong.
 */
export function hostsOf(dir: string, registry: string): RegistryHost[] {
  const path = [registry, registry.replace(/:(\d+)$/, '_$1_'), '_default']
    .map((name) => join(dir, name, 'hosts.toml'))
    .find((each) => existsSync(each));
  const plain = { ca: [], client: [], skipVerify: false, headers: {}, resolve: true, pull: true, connectTimeoutMs: undefined };
  const server = (url: string): RegistryHost => ({ ...plain, url: withApi(url, false), namespace: undefined });
  if (path === undefined) return [{ ...server(defaultServer(registry)), ...certificatesOf(dir, registry) }];
  const fail = (key: string, why: string): never => {
    throw new ClassifiedError('failedPrecondition', `${path}: ${key}: ${why}`);
  };
  let file: Record<string, unknown>;
  try {
    file = parse(readFileSync(path, 'utf8'));
  } catch (error) {
    throw new ClassifiedError('failedPrecondition', `${path}: ${messageOf(error).split('\n')[0] ?? ''}`);
  }
  const read = (table: Record<string, unknown>, url: string, at: string): RegistryHost => {
    for (const key of Object.keys(table)) if (!KEYS.has(key)) fail(at + key, 'unknown key');
    const capabilities = table['capabilities'] ?? ['pull', 'resolve'];
    if (!Array.isArray(capabilities) || !capabilities.every((each) => CAPABILITIES.includes(String(each))))
      return fail(`${at}capabilities`, `must be a list of ${CAPABILITIES.join(', ')}`);
    const flag = (key: string): boolean => {
      const value = table[key] ?? false;
      return typeof value === 'boolean' ? value : fail(at + key, 'must be true or false');
    };
    const files = (key: string): unknown[] =>
      table[key] === undefined ? [] : Array.isArray(table[key]) ? (table[key] as unknown[]) : [table[key]];
    const absolute = (value: unknown): string =>
      typeof value === 'string' ? (isAbsolute(value) ? value : join(path, '..', value)) : fail(at, 'a file name is not a string');
    const isMirror = new URL(url).host !== new URL(defaultServer(registry)).host;
    return {
      url: withApi(url, flag('override_path')),
      resolve: capabilities.includes('resolve'),
      pull: capabilities.includes('pull'),
      ca: files('ca').map(absolute),
      client: files('client').map((each) =>
        Array.isArray(each)
          ? [absolute(each[0]), each[1] === undefined || each[1] === '' ? undefined : absolute(each[1])]
          : [absolute(each), undefined],
      ),
      skipVerify: flag('skip_verify'),
      connectTimeoutMs:
        durationMs(table['dial_timeout']) ??
        (table['dial_timeout'] === undefined ? undefined : fail(`${at}dial_timeout`, 'is not a duration like 3s')),
      headers: Object.fromEntries(
        Object.entries((table['header'] as Record<string, unknown> | undefined) ?? {}).map(([name, value]) => [
          name,
          Array.isArray(value) ? value.join(', ') : String(value),
        ]),
      ),
      namespace: isMirror ? registry : undefined,
    };
  };
  const { host, ...own } = file as { host?: Record<string, Record<string, unknown>> };
  const mirrors = Object.entries(host ?? {}).map(([url, table]) => read(table, checked(url, fail), `host."${url}".`));
  const serverUrl = typeof file['server'] === 'string' ? file['server'] : defaultServer(registry);
  return [...mirrors, read(own, checked(serverUrl, fail), '')];
}

/** Docker's way, where there is no hosts.toml: `<dir>/<host>/*.crt` are authorities, `*.cert` with `*.key` the client's. */
function certificatesOf(dir: string, registry: string): Pick<RegistryHost, 'ca' | 'client'> {
  const at = join(dir, registry);
  const names = existsSync(at) ? readdirSync(at).sort() : [];
  const keyOf = (name: string): string => name.replace(/cert$/, 'key');
  return {
    ca: names.filter((name) => name.endsWith('.crt')).map((name) => join(at, name)),
    client: names
      .filter((name) => name.endsWith('.cert') && names.includes(keyOf(name)))
      .map((name) => [join(at, name), join(at, keyOf(name))]),
  };
}

/** `1m30s`, `500ms`; undefined when it isn't a duration. */
function durationMs(value: unknown): number | undefined {
  if (typeof value !== 'string' || !/^(\d+(\.\d+)?(ms|s|m|h))+$/.test(value)) return undefined;
  const units: Readonly<Record<string, number>> = { ms: 1, s: 1000, m: 60_000, h: 3_600_000 };
  return [...value.matchAll(/([\d.]+)(ms|s|m|h)/g)].reduce((sum, [, count, unit]) => sum + Number(count) * (units[unit ?? ''] ?? 0), 0);
}

function checked(text: string, fail: (key: string, why: string) => never): string {
  const url = /^https?:\/\//.test(text) ? text : `https://${text}`;
  return URL.canParse(url) ? url : fail(`host."${text}"`, 'is not a URL');
}

const withApi = (url: string, isWhole: boolean): string => {
  const base = url.replace(/\/+$/, '');
  return isWhole || base.endsWith('/v2') ? base : `${base}/v2`;
};

const LOOPBACK = /^(localhost|127\.\d+\.\d+\.\d+|\[::1\])(:\d+)?$/;

/** Registries on loopback speak plain HTTP unless they are configured otherwise. */
function defaultServer(registry: string): string {
  if (registry === 'docker.io') return 'https://registry-1.docker.io';
  return `${LOOPBACK.test(registry) ? 'http' : 'https'}://${registry}`;
}
