import { spawn, spawnSync } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import {
  chmodSync,
  closeSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  rmdirSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { Cri } from './cri.ts';
import { allAddresses } from './warm.ts';

const PROGRAM = fileURLToPath(new URL('../../src/gantry', import.meta.url));
// Emulated machines (hack/vm) need most of it.
const START_TIMEOUT_MS = 120_000;
const STOP_TIMEOUT_MS = 30_000;
const LOG_TAIL_BYTES = 4000;
const CGROUPS = '/sys/fs/cgroup';

export interface GantryOptions {
  /** Where root, state, CNI and hosts directories and the log are; made and, at `remove`, deleted. Short: sockets lie below it. */
  readonly dir?: string;
  /** The daemon's log; by default in `dir`. */
  readonly logPath?: string;
  /** Registry hosts and the address (host:port) that really answers for them. */
  readonly mirrors?: Readonly<Record<string, string>>;
  /** More flags of `gantry serve`. */
  readonly flags?: readonly string[];
  /** Instead of the machine's own CNI plugins. */
  readonly pluginDir?: string;
  /** More of the daemon's environment. */
  readonly env?: Readonly<Record<string, string>>;
  /** Its configuration file (TOML). */
  readonly config?: string;
  /** Instead of the default, or of what GANTRY_TEST_SNAPSHOTTER says. */
  readonly snapshotter?: 'overlay' | 'erofs';
  /** The third byte of the pods' network 10.77.x.0/24, for those that start several. */
  readonly subnet?: number;
}

/** A private Gantry: its own directories, bridge and pod network. It is meant to run in namespaces of its own (hack/private). */
export class Gantry {
  readonly dir: string;
  readonly root: string;
  readonly state: string;
  readonly socket: string;
  readonly logPath: string;
  readonly cniDataDir: string;
  readonly bridge: string;
  readonly #flags: readonly string[];
  readonly #env: Readonly<Record<string, string>>;
  #child: ChildProcess | undefined;
  #cri: Cri | undefined;

  constructor(options: GantryOptions = {}) {
    this.dir = options.dir ?? mkdtempSync(join(tmpdir(), 'gantry-test-'));
    this.root = join(this.dir, 'root');
    this.state = join(this.dir, 'state');
    this.socket = join(this.state, 'gantry.sock');
    this.logPath = options.logPath ?? join(this.dir, 'gantry.log');
    this.cniDataDir = join(this.dir, 'ipam');
    const subnet = options.subnet ?? 0;
    this.bridge = `gantry${subnet}`;
    const confDir = join(this.dir, 'net.d');
    const hostsDir = join(this.dir, 'certs.d');
    for (const each of [this.dir, confDir, hostsDir]) mkdirSync(each, { recursive: true });
    // As /run is: the root of a user namespace passes through to its rootfs.
    chmodSync(this.dir, 0o711);
    writeFileSync(join(confDir, '10-gantry.conflist'), JSON.stringify(conflist(this.bridge, subnet, this.cniDataDir), undefined, 2));
    for (const [host, address] of Object.entries(options.mirrors ?? {})) writeMirror(hostsDir, host, address);
    if (options.config !== undefined) writeFileSync(join(this.dir, 'config.toml'), options.config);
    this.#env = options.env ?? {};
    // Any suite runs with another snapshotter than the default.
    const snapshotter = options.snapshotter ?? process.env['GANTRY_TEST_SNAPSHOTTER'];
    this.#flags = [
      ...(options.config === undefined ? [] : ['--config', join(this.dir, 'config.toml')]),
      ...['--root', this.root, '--state', this.state, '--socket', this.socket],
      ...['--cni-conf-dir', confDir, '--cni-bin-dir', options.pluginDir ?? pluginDir(), '--registry-hosts-dir', hostsDir],
      ...['--log-format', 'text', '--log-level', 'debug'],
      ...(snapshotter === undefined ? [] : ['--snapshotter', snapshotter]),
      ...(options.flags ?? []),
    ];
  }

  /** Where the snapshotter in use keeps what it has. */
  get snapshots(): string {
    const [erofs, overlay] = [join(this.root, 'snapshots/erofs'), join(this.root, 'snapshots/overlay')];
    return existsSync(erofs) ? erofs : overlay;
  }

  get cri(): Cri {
    return (this.#cri ??= new Cri(this.socket));
  }

  get pid(): number {
    const pid = this.#child?.pid;
    if (pid === undefined) throw new Error('gantry is not running');
    return pid;
  }

  /** Resolves when the socket answers. Fails with the end of the log when it ends or is not ready within 30 s. */
  async start(env: Readonly<Record<string, string>> = {}, moreFlags: readonly string[] = []): Promise<void> {
    const log = openSync(this.logPath, 'a');
    const child = spawn(PROGRAM, ['serve', ...this.#flags, ...moreFlags], {
      stdio: ['ignore', log, log],
      env: { ...process.env, ...this.#env, ...env },
    });
    closeSync(log);
    this.#child = child;
    child.on('error', () => undefined);
    const untilMs = Date.now() + START_TIMEOUT_MS;
    for (;;) {
      if (child.exitCode !== null || child.signalCode !== null || child.pid === undefined) {
        throw new Error(`gantry ended at once (${child.exitCode ?? child.signalCode ?? 'not started'}):\n${this.logTail()}`);
      }
      if (existsSync(this.socket)) {
        const ready = await this.cri.runtime('version', {}, 1000).then(
          () => true,
          () => false,
        );
        if (ready) return;
      }
      if (Date.now() > untilMs) throw new Error(`gantry did not answer within ${START_TIMEOUT_MS} ms:\n${this.logTail()}`);
      await sleep(25);
    }
  }

  /** SIGKILL; resolves when the process is gone. */
  async kill(): Promise<void> {
    await this.#end('SIGKILL');
  }

  /** SIGTERM; containers go on running. */
  async stop(): Promise<void> {
    await this.#end('SIGTERM');
  }

  async #end(signal: NodeJS.Signals): Promise<void> {
    const child = this.#child;
    this.#child = undefined;
    this.#cri?.[Symbol.dispose]();
    this.#cri = undefined;
    if (child === undefined || child.exitCode !== null || child.signalCode !== null) return;
    const gone = once(child, 'exit');
    child.kill(signal);
    const late = setTimeout(() => child.kill('SIGKILL'), STOP_TIMEOUT_MS);
    await gone;
    clearTimeout(late);
  }

  /** Stops and removes every pod. */
  async removePods(): Promise<void> {
    const { items } = await this.cri.runtime('listPodSandbox', {});
    for (const { id } of items) {
      await this.cri.runtime('stopPodSandbox', { podSandboxId: id });
      await this.cri.runtime('removePodSandbox', { podSandboxId: id });
    }
  }

  logTail(): string {
    if (!existsSync(this.logPath)) return '';
    const size = statSync(this.logPath).size;
    return readFileSync(this.logPath)
      .subarray(Math.max(0, size - LOG_TAIL_BYTES))
      .toString();
  }

  /** Removes pods, ends the daemon, deletes its directories. Fails when a daemon that was asked to end leaves an address or a record of a sandbox. */
  async remove(): Promise<void> {
    const serves = this.#child !== undefined;
    if (serves) await this.removePods();
    await this.stop();
    const left = serves ? [...allAddresses(this).map(({ name }) => name), ...sandboxRecords(this)] : [];
    // The bridge plugin makes it at the first ADD and never takes it away.
    spawnSync('ip', ['link', 'delete', this.bridge], { stdio: 'ignore' });
    removeDefaultCgroup();
    rmSync(this.dir, { recursive: true, force: true });
    if (left.length > 0) throw new Error(`gantry leaves behind ${left.join(', ')}`);
  }
}

/** The daemon keeps it, empty, for pods without a cgroup parent. Another Gantry's is in use, or made anew. */
function removeDefaultCgroup(): void {
  for (const hierarchy of ['', ...readdirSync(CGROUPS)])
    try {
      rmdirSync(join(CGROUPS, hierarchy, 'gantry'));
    } catch {
      // There is none, or there are pods.
    }
}

const sandboxRecords = ({ root }: Gantry): string[] =>
  existsSync(join(root, 'sandboxes')) ? readdirSync(join(root, 'sandboxes')).filter((name) => name.endsWith('.json')) : [];

export function pluginDir(): string {
  const dir = ['/usr/lib/cni', '/opt/cni/bin'].find((each) => existsSync(join(each, 'bridge')));
  if (dir === undefined) throw new Error('no CNI plugins: run hack/install');
  return dir;
}

/** Mirrors `host` to `address`, which speaks plain HTTP. */
export function writeMirror(hostsDir: string, host: string, address: string): void {
  mkdirSync(join(hostsDir, host), { recursive: true });
  writeFileSync(
    join(hostsDir, host, 'hosts.toml'),
    `server = "http://${address}"\n\n[host."http://${address}"]\ncapabilities = ["pull", "resolve"]\n`,
  );
}

export function conflist(bridge: string, subnet: number, dataDir: string): object {
  return {
    cniVersion: '1.0.0',
    name: `gantry-${subnet}`,
    plugins: [
      {
        type: 'bridge',
        bridge,
        isGateway: true,
        ipMasq: true,
        hairpinMode: true,
        ipam: { type: 'host-local', dataDir, ranges: [[{ subnet: `10.77.${subnet}.0/24` }]], routes: [{ dst: '0.0.0.0/0' }] },
      },
      { type: 'portmap', capabilities: { portMappings: true } },
    ],
  };
}
