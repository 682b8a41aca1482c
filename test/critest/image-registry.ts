import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { findProgram } from '../../hack/images/programs.ts';
import { push } from '../../hack/images/push.ts';
import { standIns } from '../../hack/images/stand-ins.ts';
import { startRegistry } from '../lib/docker-registry.ts';

/**
 * Builds the stand-in images into a registry's storage below `outDir`, unless the same sources and programs have done so before.
 * Needs the network where packages must be fetched. Resolves to the storage directory.
 */
export async function prepareImages(outDir: string): Promise<string> {
  const imagesDir = join(outDir, 'images');
  const storage = join(imagesDir, imagesKey());
  if (existsSync(join(storage, 'complete'))) return storage;
  rmSync(imagesDir, { recursive: true, force: true });
  mkdirSync(storage, { recursive: true });
  const shop = join(outDir, 'workshop');
  mkdirSync(shop, { recursive: true });
  const images = await standIns({ dir: shop });
  await using registry = await startRegistry(storage);
  for (const [name, image] of images) await push(`http://${registry.host}`, name, image);
  writeFileSync(join(storage, 'complete'), '');
  return storage;
}

/** Changes with the scripts that make the images and the programs they are made of. */
function imagesKey(): string {
  const dir = join(import.meta.dirname, '../../hack/images');
  const hash = createHash('sha256');
  for (const name of readdirSync(dir).sort()) hash.update(name).update(readFileSync(join(dir, name)));
  for (const name of ['busybox', 'nginx', 'ipcs', 'pgrep']) {
    const program = findProgram(name);
    hash.update(program === undefined ? `no ${name}` : `${program} ${statSync(program).size} ${statSync(program).mtimeMs}`);
  }
  return hash.digest('hex').slice(0, 16);
}
