import { spawn, spawnSync } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, existsSync, mkdirSync, mkdtempSync, openSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { Cri } from '../../test/lib/cri.ts';
import { conflist, Gantry, pluginDir, writeMirror } from '../../test/lib/gantry.ts';
import { findProgram } from '../images/programs.ts';

/** A CRI runtime under measurement, with directories, a bridge and a subnet of its own. */
export interface Contender {
  readonly name: string;
  readonly cri: Cri;
  readonly dir: string;
  readonly version: string;
  /** Of the daemon alone. */
  readonly pid: number;
  /** The daemon ends and starts again; resolves when it answers. */
  restart(): Promise<void>;
  /** Removes pods, ends the daemon, deletes its directories. */
  remove(): Promise<void>;
}

export const PAUSE_IMAGE = 'images.test/pause:1';
const START_TIMEOUT_MS = 30_000;

/** Its directories are made in `parent`. `subnet`: 2 is the peer's. */
export async function startGantry(
  mirrors: Readonly<Record<string, string>>,
  flags: readonly string[],
  { parent = tmpdir(), subnet = 1 }: { parent?: string; subnet?: number } = {},
): Promise<Contender> {
  const dir = mkdtempSync(join(parent, 'gantry-'));
  const gantry = new Gantry({ dir, subnet, mirrors, flags: ['--pause-image', PAUSE_IMAGE, '--log-level', 'info', ...flags] });
  await gantry.start();
  const { runtimeVersion } = await gantry.cri.runtime('version', {});
  return {
    name: 'gantry',
    get cri() {
      return gantry.cri;
    },
    dir: gantry.dir,
    version: runtimeVersion,
    get pid() {
      return gantry.pid;
    },
    async restart() {
      await gantry.stop();
      await gantry.start();
    },
    remove: () => gantry.remove(),
  };
}

/** containerd of this machine, with the CRI plugin's own defaults but for directories (made in `parent`), pause image and the same conflist, runtime and mirrors. */
export async function startContainerd(mirrors: Readonly<Record<string, string>>, parent = tmpdir()): Promise<Contender> {
  const program = findProgram('containerd');
  if (program === undefined) throw new Error('no containerd: run hack/install bench');
  const dir = mkdtempSync(join(parent, 'peer-'));
  const paths = {
    conf: join(dir, 'net.d'),
    certs: join(dir, 'certs.d'),
    socket: join(dir, 'state/containerd.sock'),
    log: join(dir, 'log'),
  };
  for (const each of [paths.conf, paths.certs]) mkdirSync(each);
  writeFileSync(join(paths.conf, '10-bench.conflist'), JSON.stringify(conflist('peer0', 2, join(dir, 'ipam'))));
  for (const [host, address] of Object.entries(mirrors)) writeMirror(paths.certs, host, address);
  const config = join(dir, 'config.toml');
  writeFileSync(config, containerdConfig(dir, paths));
  let child: ChildProcess;
  let cri: Cri;
  const start = async (): Promise<void> => {
    const log = openSync(paths.log, 'a');
    child = spawn(program, ['--config', config], { stdio: ['ignore', log, log] });
    closeSync(log);
    cri = new Cri(paths.socket);
    const untilMs = Date.now() + START_TIMEOUT_MS;
    for (;;) {
      const ready = existsSync(paths.socket) && (await cri.runtime('version', {}, 1000).then(Boolean, () => false));
      if (ready) return;
      if (child.exitCode !== null || Date.now() > untilMs)
        throw new Error(`containerd does not answer:\n${readFileSync(paths.log, 'utf8').slice(-4000)}`);
      await sleep(10);
    }
  };
  const stop = async (): Promise<void> => {
    cri[Symbol.dispose]();
    const gone = once(child, 'exit');
    child.kill('SIGTERM');
    await gone;
  };
  await start();
  const { runtimeVersion } = await cri!.runtime('version', {});
  return {
    name: 'containerd',
    get cri() {
      return cri;
    },
    dir,
    version: runtimeVersion,
    get pid() {
      return child.pid ?? 0;
    },
    async restart() {
      await stop();
      await start();
    },
    async remove() {
      const { items } = await cri.runtime('listPodSandbox', {});
      for (const { id } of items) {
        await cri.runtime('stopPodSandbox', { podSandboxId: id });
        await cri.runtime('removePodSandbox', { podSandboxId: id });
      }
      await stop();
      spawnSync('ip', ['link', 'delete', 'peer0'], { stdio: 'ignore' });
      for (const line of readFileSync('/proc/self/mountinfo', 'utf8').split('\n').reverse()) {
        const target = line.split(' ')[4] ?? '';
        if (target.startsWith(dir)) spawnSync('umount', ['-l', target]);
      }
      rmSync(dir, { recursive: true, force: true });
    },
  };
}

function containerdConfig(dir: string, paths: { conf: string; certs: string; socket: string }): string {
  return `version = 2
root = "${dir}/root"
state = "${dir}/state"
[grpc]
  address = "${paths.socket}"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "${PAUSE_IMAGE}"
  restrict_oom_score_adj = true
  disable_tcp_service = true
[plugins."io.containerd.grpc.v1.cri".cni]
  bin_dir = "${pluginDir()}"
  conf_dir = "${paths.conf}"
[plugins."io.containerd.grpc.v1.cri".registry]
  config_path = "${paths.certs}"
[plugins."io.containerd.internal.v1.opt"]
  path = "${dir}/opt"
`;
}

/** MiB that are a contender's own: its daemon, monitors or shims, and pause processes; shared pages split among their users (PSS). */
export function memoryMib(contender: Contender): number {
  let kib = 0;
  for (const pid of readdirSync('/proc')) {
    if (!/^\d+$/.test(pid)) continue;
    try {
      const argv = readFileSync(`/proc/${pid}/cmdline`, 'utf8');
      const pauses = contender.name === 'containerd' && /^\/bin\/sh\0-c\0trap "exit 0" TERM INT;/.test(argv);
      if (Number(pid) !== contender.pid && !argv.includes(contender.dir) && !pauses) continue;
      kib += Number(/^Pss:\s+(\d+)/m.exec(readFileSync(`/proc/${pid}/smaps_rollup`, 'utf8'))?.[1] ?? 0);
    } catch {
      // it has ended
    }
  }
  return kib / 1024;
}

/** Seconds of CPU that the daemon used so far. */
export function cpuSeconds(contender: Contender): number {
  const fields = readFileSync(`/proc/${contender.pid}/stat`, 'utf8')
    .replace(/^.*\) /s, '')
    .split(' ');
  return (Number(fields[11]) + Number(fields[12])) / 100;
}
