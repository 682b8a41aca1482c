import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { connect, createServer } from 'node:net';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { findProgram } from '../../hack/images/programs.ts';

/** A docker-registry on loopback, ended by `dispose`. */
export interface Registry extends AsyncDisposable {
  /** host:port. */
  readonly host: string;
}

export interface RegistryOptions {
  /** Its `auth` section. */
  readonly auth?: object;
  /** PEM files; with `clientCa` clients must show a certificate of that authority. */
  readonly tls?: { readonly certificate: string; readonly key: string; readonly clientCa?: string };
}

const START_TIMEOUT_MS = 20_000;

/** Serves what `storage` holds; several may stand on the same storage. */
export async function startRegistry(storage: string, { auth, tls }: RegistryOptions = {}): Promise<Registry> {
  const program = findProgram('docker-registry') ?? findProgram('registry');
  if (program === undefined) throw new Error('no docker-registry on this machine: run hack/install critest');
  const port = await freePort();
  const host = `127.0.0.1:${port}`;
  mkdirSync(storage, { recursive: true });
  const config = join(storage, `config-${port}.yml`);
  // JSON is YAML.
  writeFileSync(
    config,
    JSON.stringify({
      version: '0.1',
      log: { level: 'warn' },
      storage: { filesystem: { rootdirectory: storage } },
      http: {
        addr: host,
        ...(tls === undefined
          ? {}
          : { tls: { certificate: tls.certificate, key: tls.key, ...(tls.clientCa ? { clientcas: [tls.clientCa] } : {}) } }),
      },
      ...(auth === undefined ? {} : { auth }),
    }),
  );
  const child = spawn(program, ['serve', config], { stdio: 'ignore', env: { ...process.env, OTEL_TRACES_EXPORTER: 'none' } });
  const gone = once(child, 'exit');
  const untilMs = Date.now() + START_TIMEOUT_MS;
  while (!(await listens(port))) {
    if (child.exitCode !== null) throw new Error(`docker-registry ended with ${child.exitCode}`);
    if (Date.now() > untilMs) throw new Error('docker-registry does not listen');
    await sleep(20);
  }
  return {
    host,
    async [Symbol.asyncDispose]() {
      child.kill('SIGTERM');
      await gone;
      rmSync(config, { force: true });
    },
  };
}

const listens = (port: number): Promise<boolean> =>
  new Promise((resolve) => {
    const socket = connect(port, '127.0.0.1', () => {
      socket.destroy();
      resolve(true);
    });
    socket.on('error', () => resolve(false));
  });

export async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as AddressInfo;
  await new Promise<void>((resolve) => server.close(() => resolve()));
  return port;
}
