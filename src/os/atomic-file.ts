import { randomBytes } from 'node:crypto';
import { renameSync, rmSync, writeFileSync } from 'node:fs';
import { open, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { dirname } from 'node:path';

/** Names of this process that no other has, nor one that was killed over them. */
const OWN = randomBytes(6).toString('hex');
let serial = 0;

/** Whole content or none: a temporary file is renamed over `path`. `sync` makes data and name durable before it resolves. */
export async function writeFileAtomic(
  path: string,
  data: string | Uint8Array,
  options: { mode?: number; sync?: boolean } = {},
): Promise<void> {
  const temporary = `${path}.${OWN}-${serial++}.tmp`;
  try {
    await writeFile(temporary, data, { flag: 'wx', mode: options.mode ?? 0o600, flush: options.sync === true });
    await rename(temporary, path);
  } catch (error) {
    await rm(temporary, { force: true });
    throw error;
  }
  if (options.sync === true) await syncDir(dirname(path));
}

export async function writeJson(path: string, value: unknown, options: { sync?: boolean } = {}): Promise<void> {
  await writeFileAtomic(path, JSON.stringify(value), options);
}

/** On a tmpfs, where the way to libuv's pool and back takes longer than the writing. */
export function writeJsonSync(path: string, value: unknown): void {
  const temporary = `${path}.${OWN}-${serial++}.tmp`;
  try {
    writeFileSync(temporary, JSON.stringify(value), { flag: 'wx', mode: 0o600 });
    renameSync(temporary, path);
  } catch (error) {
    rmSync(temporary, { force: true });
    throw error;
  }
}

export async function readJson(path: string): Promise<unknown> {
  return JSON.parse(await readFile(path, 'utf8')) as unknown;
}

/** Makes the names in a directory durable. */
export async function syncDir(path: string): Promise<void> {
  const dir = await open(path, 'r');
  try {
    await dir.sync();
  } finally {
    await dir.close();
  }
}
