import { BlockList, isIP } from 'node:net';
import { ClassifiedError } from '../base/errors.ts';

const LOOPBACK = new BlockList();
LOOPBACK.addSubnet('127.0.0.0', 8, 'ipv4');
LOOPBACK.addAddress('::1', 'ipv6');

const familyOf = (ip: string): 'ipv4' | 'ipv6' => (isIP(ip) === 6 ? 'ipv6' : 'ipv4');
const PORTS: Readonly<Record<string, string>> = { 'http:': '80', 'https:': '443' };

/**
 * The proxy that the environment names for a URL (`HTTP_PROXY`, `HTTPS_PROXY`, `NO_PROXY`, or in lower case), as programs in Go understand it
 * (golang.org/x/net/http/httpproxy), as operators have written them for the other runtimes: none for localhost and loopback addresses; NO_PROXY holds `*`, names
 * that stand for what is below them too, names with a dot before them for that alone, addresses and CIDRs, each with a port or without.
 * failedPrecondition for a proxy that is neither http nor https.
 */
export function proxyOf({ protocol, hostname, port }: URL, env: NodeJS.ProcessEnv = process.env): string | undefined {
  const name = protocol === 'https:' ? 'HTTPS_PROXY' : 'HTTP_PROXY';
  const value = env[name] || env[name.toLowerCase()];
  if (!value) return undefined;
  const host = hostname
    .toLowerCase()
    .replace(/^\[|\]$/g, '')
    .replace(/\.$/, '');
  if (host === 'localhost' || (isIP(host) !== 0 && LOOPBACK.check(host, familyOf(host)))) return undefined;
  const except = (env['NO_PROXY'] || env['no_proxy'] || '').split(',').map((entry) => entry.trim().toLowerCase());
  if (except.some((entry) => entry !== '' && covers(entry, host, port || PORTS[protocol]))) return undefined;
  // The value may hold a password: nothing of it is told.
  const proxy = parsed(value);
  if (proxy === undefined) throw new ClassifiedError('failedPrecondition', `${name} is not the URL of an http or https proxy`);
  return proxy.href;
}

function parsed(value: string): URL | undefined {
  try {
    const url = new URL(value.includes('://') ? value : `http://${value}`);
    // Node does, and would tell the value.
    decodeURIComponent(`${url.username}${url.password}`);
    return /^https?:$/.test(url.protocol) ? url : undefined;
  } catch {
    return undefined;
  }
}

function covers(entry: string, host: string, port: string | undefined): boolean {
  if (entry === '*') return true;
  const [, named = entry, onlyPort] = /^(\[[^\]]*\]|[^:]*):(\d+)$/.exec(entry) ?? [];
  if (onlyPort !== undefined && onlyPort !== port) return false;
  const name = named.replace(/^\[|\]$/g, '');
  if (isIP(host) === 0) {
    const below = name.replace(/^\*?\.?/, '.');
    return host.endsWith(below) || host === name;
  }
  const [, address = '', bits] = /^([^/]*)(?:\/(\d{1,3}))?$/.exec(name) ?? [];
  const family = isIP(address);
  const most = family === 4 ? 32 : 128;
  const length = Number(bits ?? most);
  if (family === 0 || length > most) return false;
  const range = new BlockList();
  range.addSubnet(address, length, familyOf(address));
  return range.check(host, familyOf(host));
}
