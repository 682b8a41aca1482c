import { randomBytes } from 'node:crypto';
import { open, readFile, rename, rm } from 'node:fs/promises';
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
    const file = await open(temporary, 'wx', options.mode ?? 0o600);
    try {
      await file.writeFile(data);
      if (options.sync === true) await file.datasync();
    } finally {
      await file.close();
    }
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
