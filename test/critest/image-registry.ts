import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { findProgram } from '../../hack/images/programs.ts';
import { push } from '../../hack/images/push.ts';
import { standIns } from '../../hack/images/stand-ins.ts';

/** A docker-registry on loopback, ended by `dispose`. */
export interface Registry extends AsyncDisposable {
  readonly host: string;
}

const START_TIMEOUT_MS = 20_000;

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

/** Serves what `storage` holds. */
export async function startRegistry(storage: string): Promise<Registry> {
  const program = findProgram('docker-registry') ?? findProgram('registry');
  if (program === undefined) throw new Error('no docker-registry on this machine: run hack/install critest');
  const port = await freePort();
  const host = `127.0.0.1:${port}`;
  const config = join(storage, 'config.yml');
  writeFileSync(config, `version: 0.1\nlog: {level: warn}\nstorage:\n  filesystem: {rootdirectory: ${storage}}\nhttp: {addr: '${host}'}\n`);
  const child = spawn(program, ['serve', config], { stdio: 'ignore', env: { ...process.env, OTEL_TRACES_EXPORTER: 'none' } });
  const gone = once(child, 'exit');
  const untilMs = Date.now() + START_TIMEOUT_MS;
  while (!(await answers(`http://${host}/v2/`))) {
    if (child.exitCode !== null) throw new Error(`docker-registry ended with ${child.exitCode}`);
    if (Date.now() > untilMs) throw new Error('docker-registry does not answer');
    await sleep(50);
  }
  return {
    host,
    async [Symbol.asyncDispose]() {
      child.kill('SIGTERM');
      await gone;
    },
  };
}

const answers = (url: string): Promise<boolean> =>
  fetch(url).then(
    ({ ok }) => ok,
    () => false,
  );

async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as AddressInfo;
  await new Promise<void>((resolve) => server.close(() => resolve()));
  return port;
}
