import { readdir, readFile, rm } from 'node:fs/promises';
import { isIP } from 'node:net';
import { join } from 'node:path';
import { lockFile } from '../os/file-lock.ts';
import type { Conflist } from './conflist.ts';

const DEFAULT_DATA_DIR = '/var/lib/cni/networks';

/**
 * host-local does not know GC: its files name a container in their first line, and those of ours (64 hex digits) that are no pod's any more are released (R4).
 * Returns the addresses.
 */
export async function releaseStale(conflist: Conflist, isValid: (sandboxId: string) => boolean): Promise<string[]> {
  const released: string[] = [];
  for (const plugin of conflist.plugins) {
    const ipam = plugin['ipam'] as { type?: unknown; dataDir?: unknown } | undefined;
    if (ipam?.type !== 'host-local') continue;
    const dir = join(typeof ipam.dataDir === 'string' && ipam.dataDir !== '' ? ipam.dataDir : DEFAULT_DATA_DIR, conflist.name);
    const names = (await readdir(dir).catch(() => [])).filter((name) => isIP(name.replaceAll('_', ':')) !== 0 || isIP(name) !== 0);
    if (names.length === 0) continue;
    // The plugin's own lock; when a plugin holds it right now, this is left to the next time.
    using _ = lockFile(join(dir, 'lock'));
    for (const name of names) {
      const id = (await readFile(join(dir, name), 'utf8').catch(() => '')).split(/\s/)[0] ?? '';
      // Under the lock an empty one is of a plugin that was killed before it wrote the name: no DEL would find it.
      if (id !== '' && (!/^[0-9a-f]{64}$/.test(id) || isValid(id))) continue;
      await rm(join(dir, name), { force: true });
      released.push(name);
    }
  }
  return released;
}
