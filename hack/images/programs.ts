import { existsSync, lstatSync, readFileSync, realpathSync } from 'node:fs';
import { delimiter, join } from 'node:path';
import { execa } from 'execa';
import type { Entry } from './tree.ts';

const SEARCH = [...(process.env['PATH'] ?? '').split(delimiter), '/usr/local/sbin', '/usr/sbin', '/sbin', '/usr/bin', '/bin'];

/** The real path of a program, undefined if the machine has none. */
export function findProgram(name: string): string | undefined {
  const found = SEARCH.map((dir) => join(dir, name)).find((path) => existsSync(path) && lstatSync(realpathSync(path)).isFile());
  return found === undefined ? undefined : realpathSync(found);
}

/** A program with the shared libraries it asks for, each at the path where the loader looks. */
export async function programEntries(source: string, path: string, mode = 0o755): Promise<Entry[]> {
  const libraries = await sharedLibraries(source);
  return [
    { path, data: readFileSync(source), mode },
    ...libraries.map((each): Entry => ({ path: each, data: readFileSync(each), mode: 0o755 })),
  ];
}

/** Paths as `ldd` resolves them; none for a static program. */
export async function sharedLibraries(program: string): Promise<string[]> {
  const { stdout, exitCode } = await execa('ldd', [program], { reject: false, env: { LC_ALL: 'C' } });
  if (exitCode !== 0) return [];
  if (stdout.includes('not found')) throw new Error(`${program} lacks a library here:\n${stdout}`);
  return [...stdout.matchAll(/(?:=> )?(\/\S+) \(0x/g)].map(([, path]) => path ?? '');
}

/** Each path once; the first wins. */
export function merged(entries: readonly Entry[]): Entry[] {
  const byPath = new Map<string, Entry>();
  for (const entry of entries) if (!byPath.has(entry.path)) byPath.set(entry.path, entry);
  return [...byPath.values()];
}

/** BusyBox under /bin with a hard link for each applet it has. */
export async function busyboxEntries(busybox: string): Promise<Entry[]> {
  const { stdout } = await execa(busybox, ['--list']);
  const applets = stdout.split('\n').filter((name) => name !== '' && name !== 'busybox');
  return [
    ...(await programEntries(busybox, '/bin/busybox')),
    ...applets.map((name): Entry => ({ path: `/bin/${name}`, hardlink: '/bin/busybox' })),
  ];
}
