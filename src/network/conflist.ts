import { readdir, readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { errnoOf, messageOf } from '../base/errors.ts';

export interface PluginConfig {
  readonly type: string;
  readonly capabilities?: Readonly<Record<string, boolean>>;
  readonly [key: string]: unknown;
}

/** A network configuration list (CNI spec, section 1). */
export interface Conflist {
  readonly cniVersion: string;
  readonly name: string;
  readonly disableCheck: boolean;
  readonly disableGc: boolean;
  readonly plugins: readonly PluginConfig[];
}

/** Newest first. */
const KNOWN_VERSIONS = ['1.1.0', '1.0.0', '0.4.0', '0.3.1', '0.3.0'] as const;

/** >= by parts, for versions of three numbers. */
export function isAtLeast(version: string, least: string): boolean {
  const [a, b] = [version, least].map((text) => text.split('.').map(Number));
  for (let i = 0; i < 3; i++) if ((a?.[i] ?? 0) !== (b?.[i] ?? 0)) return (a?.[i] ?? 0) > (b?.[i] ?? 0);
  return true;
}

/** Throws what is wrong with it. A single plugin's configuration is a list of one. */
export function parseConflist(text: string): Conflist {
  const value = JSON.parse(text) as unknown;
  if (typeof value !== 'object' || value === null || Array.isArray(value)) throw new Error('is not an object');
  const file = value as Record<string, unknown>;
  const { name } = file;
  if (typeof name !== 'string' || !/^[A-Za-z0-9][A-Za-z0-9_.-]*$/.test(name)) throw new Error('name: is missing or not a network name');
  const plugins = file['plugins'] === undefined ? [file] : file['plugins'];
  if (!Array.isArray(plugins) || plugins.length === 0) throw new Error('plugins: must be a list with at least one');
  for (const [i, plugin] of plugins.entries()) {
    const type = (plugin as { type?: unknown } | null)?.type;
    if (typeof type !== 'string' || !/^[^/\0]+$/.test(type)) throw new Error(`plugins[${i}].type: is missing or not the name of a program`);
  }
  return {
    cniVersion: versionOf(file),
    name,
    disableCheck: file['disableCheck'] === true || file['disableCheck'] === 'true',
    disableGc: file['disableGC'] === true || file['disableGC'] === 'true',
    plugins: plugins as PluginConfig[],
  };
}

function versionOf({ cniVersion, cniVersions }: Record<string, unknown>): string {
  const offered = [cniVersion, ...(Array.isArray(cniVersions) ? (cniVersions as unknown[]) : [])].filter(
    (each) => typeof each === 'string',
  );
  if (offered.length === 0) throw new Error('cniVersion: is missing');
  const known = KNOWN_VERSIONS.find((version) => offered.includes(version));
  if (known === undefined) throw new Error(`cniVersion: ${offered.join(', ')} is not one of ${KNOWN_VERSIONS.join(', ')}`);
  return known;
}

export interface LoadedConf {
  readonly conflist: Conflist | undefined;
  /** Why there is none, or what was passed over. */
  readonly problems: readonly string[];
}

/** The first valid configuration of a directory in lexical order. A broken file is passed over and told. */
export async function loadConflist(dir: string): Promise<LoadedConf> {
  const problems: string[] = [];
  let names: string[];
  try {
    names = await readdir(dir);
  } catch (error) {
    return { conflist: undefined, problems: [errnoOf(error) === 'ENOENT' ? `${dir} does not exist` : messageOf(error)] };
  }
  for (const name of names.filter((each) => /\.(conflist|conf|json)$/.test(each)).sort()) {
    try {
      return { conflist: parseConflist(await readFile(join(dir, name), 'utf8')), problems };
    } catch (error) {
      problems.push(`${name}: ${messageOf(error)}`);
    }
  }
  return { conflist: undefined, problems: problems.length > 0 ? problems : [`no configuration in ${dir}`] };
}

/** Changes when the directory or a file in it does. */
export async function stampOf(dir: string): Promise<string> {
  const names = (await readdir(dir).catch(() => [])).sort();
  const stats = await Promise.all(names.map((name) => stat(join(dir, name)).catch(() => undefined)));
  return names.map((name, i) => `${name}:${stats[i]?.mtimeMs ?? 0}:${stats[i]?.size ?? 0}:${stats[i]?.ino ?? 0}`).join('|');
}
