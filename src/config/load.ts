import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { isIP } from 'node:net';
import { isAbsolute, join } from 'node:path';
import { parse, TomlError } from 'smol-toml';
import { ClassifiedError, errnoOf, messageOf } from '../base/errors.ts';
import type { Config, HandlerConfig } from './config.ts';
import type { Setting } from './schema.ts';
import { HANDLER_SETTINGS, SETTINGS } from './schema.ts';

export const DEFAULT_CONFIG_PATH = '/etc/gantry/config.toml';

/** A value and where it was said, for errors and `gantry config dump`. */
export interface Said {
  readonly value: unknown;
  readonly origin: string;
}

type Values = Map<string, Said>;

/** Everything that was said, by dotted key, and the config that follows from it. */
export interface Loaded {
  readonly config: Config;
  readonly said: ReadonlyMap<string, Said>;
}

/**
 * The file, then the drop-ins of `config.d` beside it in lexical order, then the flags; a later word on a key wins, others stay.
 * invalidArgument with file, line and key for whatever is not known or not of its type. Only a file that was asked for has to exist.
 */
export function loadConfig(options: { path?: string; flags?: ReadonlyMap<string, unknown> } = {}): Loaded {
  const path = options.path ?? DEFAULT_CONFIG_PATH;
  const said: Values = new Map();
  if (options.path !== undefined || existsSync(path)) readFile(path, said);
  const dropIns = `${path.replace(/[^/]*$/, '')}config.d`;
  for (const name of existsSync(dropIns) ? readdirSync(dropIns).sort() : [])
    if (name.endsWith('.toml')) readFile(join(dropIns, name), said);
  for (const [key, value] of options.flags ?? []) say(said, key, { value, origin: 'command line' });
  return { config: freeze(configOf(said)), said };
}

function readFile(path: string, said: Values): void {
  let text: string;
  try {
    text = readFileSync(path, 'utf8');
  } catch (error) {
    throw new ClassifiedError('invalidArgument', `${path}: ${errnoOf(error) === 'ENOENT' ? 'no such file' : messageOf(error)}`);
  }
  let table: Record<string, unknown>;
  try {
    table = parse(text);
  } catch (error) {
    if (!(error instanceof TomlError)) throw error;
    throw new ClassifiedError('invalidArgument', `${path}:${error.line}: ${error.message.split('\n')[0] ?? ''}`);
  }
  flatten(table, [], (key, value) => say(said, key.join('.'), { value, origin: `${path}:${lineOf(text, key)}` }));
}

function flatten(table: Record<string, unknown>, prefix: readonly string[], tell: (key: string[], value: unknown) => void): void {
  for (const [name, value] of Object.entries(table)) {
    const key = [...prefix, name];
    const isTable = typeof value === 'object' && value !== null && !Array.isArray(value) && !(value instanceof Date);
    if (isTable && Object.keys(value).length > 0) flatten(value as Record<string, unknown>, key, tell);
    else tell(key, isTable ? undefined : value);
  }
}

/** The line where a key stands: the last part as a key below a header of the parts before it, else wherever the header or the dotted key is. */
function lineOf(text: string, key: readonly string[]): number {
  const lines = text.split('\n');
  const bare = (part: string): string => part.replace(/["'\s]/g, '');
  let header = '';
  for (const [index, line] of lines.entries()) {
    const table = /^\s*\[+([^\]]+)\]/.exec(line);
    if (table) {
      header = bare(table[1] ?? '');
      if (header === key.join('.')) return index + 1;
    }
    const name = /^\s*([^=#]+?)\s*=/.exec(line)?.[1];
    const full = name === undefined ? undefined : [header, bare(name)].filter(Boolean).join('.');
    if (full !== undefined && (full === key.join('.') || key.join('.').startsWith(`${full}.`))) return index + 1;
  }
  return 1;
}

function say(said: Values, key: string, word: Said): void {
  const setting = settingOf(key);
  if (setting === undefined) throw new ClassifiedError('invalidArgument', `${word.origin}: unknown key "${key}"${nearest(key)}`);
  if (word.value !== undefined) check(setting, key, word);
  said.set(key, word);
}

function settingOf(key: string): Setting | undefined {
  const handler = /^handlers\.[^.]+(?:\.(.+))?$/.exec(key);
  if (!handler) return SETTINGS.find((setting) => setting.key === key);
  return handler[1] === undefined ? HANDLER_SETTINGS[0] : HANDLER_SETTINGS.find((setting) => setting.key === handler[1]);
}

const nearest = (key: string): string => {
  const last = key.split('.').at(-1) ?? '';
  const close = SETTINGS.find(
    (setting) => setting.key.endsWith(`.${last}`) || (last.length > 3 && setting.key.split('.').at(-1)?.startsWith(last.slice(0, 4))),
  );
  return close ? `; did you mean "${close.key}"?` : '';
};

function check({ type, oneOf }: Setting, key: string, { value, origin }: Said): void {
  const fail = (why: string): never => {
    throw new ClassifiedError('invalidArgument', `${origin}: ${key}: ${why}`);
  };
  const isString = (one: unknown): one is string => typeof one === 'string';
  if (type === 'integer' && !(typeof value === 'number' && Number.isInteger(value) && value >= 0))
    fail('must be a whole number, not negative');
  if ((type === 'string' || type === 'path') && !isString(value)) fail('must be a string');
  if ((type === 'strings' || type === 'paths') && !(Array.isArray(value) && value.every(isString))) fail('must be a list of strings');
  const paths = type === 'path' ? [value as string] : type === 'paths' ? (value as string[]) : [];
  for (const path of paths) if (!isAbsolute(path)) fail(`${JSON.stringify(path)} is not an absolute path`);
  if (oneOf && !oneOf.includes(value as string)) fail(`must be one of ${oneOf.join(', ')}`);
}

function configOf(said: ReadonlyMap<string, Said>): Config {
  const get = <T>(key: string): T => (said.get(key)?.value ?? SETTINGS.find((setting) => setting.key === key)?.default) as T;
  const state = get<string>('state');
  const config: Config = {
    root: get('root'),
    state,
    socket: get<string>('socket') || join(state, 'gantry.sock'),
    streaming: streamingOf(said, get),
    cni: { confDir: get('cni.conf_dir'), binDirs: get('cni.bin_dirs'), statusGraceMs: 1000 * get<number>('cni.status_grace_seconds') },
    sandbox: { warm: get('sandbox.warm'), warmBurst: get('sandbox.warm_burst') },
    metrics: { address: get('metrics.address'), port: get('metrics.port') },
    cdi: { specDirs: get('cdi.spec_dirs') },
    registry: { hostsDir: get('registry.hosts_dir') },
    image: {
      snapshotter: get('image.snapshotter'),
      pinned: get('image.pinned'),
      pauseImage: get('image.pause_image'),
      maxConcurrentDownloads: Math.max(1, get<number>('image.max_concurrent_downloads')),
      compressedBlobs: get('image.compressed_blobs'),
      verify: get('image.verify'),
    },
    cgroup: { driver: get('cgroup.driver') },
    defaultHandler: get('default_handler'),
    handlers: handlersOf(said, get('image.snapshotter')),
    conmon: { path: get('conmon.path') },
    operation: { patienceMs: 1000 * get<number>('operation.patience_seconds') },
    log: { level: get('log.level'), format: get('log.format') },
  };
  if (!config.handlers.some(({ name }) => name === config.defaultHandler)) {
    const origin = said.get('default_handler')?.origin ?? 'default';
    throw new ClassifiedError('invalidArgument', `${origin}: default_handler: no handler "${config.defaultHandler}" is configured`);
  }
  return config;
}

function streamingOf(said: ReadonlyMap<string, Said>, get: <T>(key: string) => T): Config['streaming'] {
  const [address, port] = [get<string>('streaming.address'), get<number>('streaming.port')];
  const [cert, key] = [said.get('streaming.tls_cert'), said.get('streaming.tls_key')];
  const fail = (word: Said | undefined, why: string): never => {
    throw new ClassifiedError('invalidArgument', `${word?.origin ?? 'default'}: ${why}`);
  };
  if (isIP(address) === 0) fail(said.get('streaming.address'), `streaming.address: ${JSON.stringify(address)} is not an IP address`);
  if (port > 65_535) fail(said.get('streaming.port'), `streaming.port: ${port} is not a port`);
  if ((cert === undefined) !== (key === undefined)) fail(cert ?? key, 'streaming.tls_cert and streaming.tls_key need each other');
  return { address, port, tls: cert && key ? { certFile: cert.value as string, keyFile: key.value as string } : undefined };
}

/** runc is there unless it is configured otherwise; the rest by name. */
function handlersOf(said: ReadonlyMap<string, Said>, snapshotter: string): HandlerConfig[] {
  const names = new Set(['runc', ...[...said.keys()].flatMap((key) => /^handlers\.([^.]+)/.exec(key)?.[1] ?? [])]);
  return [...names].map((name) => {
    const get = <T>(key: string, otherwise: T): T => (said.get(`handlers.${name}.${key}`)?.value ?? otherwise) as T;
    return { name, type: 'oci', path: get('path', '') || name, args: get('args', []), snapshotter };
  });
}

function freeze<T>(value: T): T {
  if (typeof value === 'object' && value !== null) for (const each of Object.values(Object.freeze(value) as object)) freeze(each);
  return value;
}
