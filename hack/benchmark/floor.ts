import { spawnSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { cpSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { conflist, pluginDir } from '../../test/lib/gantry.ts';
import { findProgram } from '../images/programs.ts';

/** What a pod costs without any daemon: the runtime's and the plugins' own time, one after the other. Milliseconds each. */
export interface Floor {
  readonly up: number;
  readonly exec: number;
  readonly down: number;
}

const need = (name: string): string => {
  const found = findProgram(name);
  if (found === undefined) throw new Error(`no ${name} on this machine`);
  return found;
};

/** Runs commands and adds up their time; the fork of this small process is part of it. */
class Watch {
  ms = 0;
  run(argv: readonly string[], options: { input?: string; env?: Record<string, string>; quiet?: boolean } = {}): string {
    const startedAt = performance.now();
    const [program = '', ...args] = argv;
    const done = spawnSync(program, args, {
      encoding: 'utf8',
      input: options.input ?? '',
      env: { ...process.env, ...options.env },
      stdio: options.quiet ? 'ignore' : 'pipe',
    });
    this.ms += performance.now() - startedAt;
    if (done.status !== 0) throw new Error(`${argv.join(' ')}: ${done.stdout}${done.stderr}`);
    return done.stdout ?? '';
  }
}

export class RawPods {
  readonly #dir = mkdtempSync(join(tmpdir(), 'floor-'));
  readonly #runtime: string;
  readonly #bundle = join(this.#dir, 'bundle');

  constructor(runtime: string) {
    this.#runtime = need(runtime);
  }

  /** The root filesystem is a plain copy of busybox: mounting is not measured. */
  prepare(): void {
    mkdirSync(join(this.#bundle, 'rootfs/bin'), { recursive: true });
    cpSync(need('busybox'), join(this.#bundle, 'rootfs/bin/busybox'));
  }

  measure(): Floor {
    const id = randomBytes(8).toString('hex');
    const netns = `/run/netns/${id}`;
    const cni = (verb: string): Watch => {
      const watch = new Watch();
      const { cniVersion, name, plugins } = conflist('floor0', 3, join(this.#dir, 'ipam')) as ConfList;
      const env = { CNI_COMMAND: verb, CNI_CONTAINERID: id, CNI_NETNS: netns, CNI_IFNAME: 'eth0', CNI_PATH: pluginDir() };
      let prevResult: unknown;
      for (const plugin of verb === 'ADD' ? plugins : plugins.toReversed()) {
        if (plugin['type'] === 'portmap') continue; // without ports it has nothing to do
        const input = JSON.stringify({ ...plugin, cniVersion, name, ...(prevResult === undefined ? {} : { prevResult }) });
        const said = watch.run([join(pluginDir(), String(plugin['type']))], { input, env });
        if (verb === 'ADD') prevResult = JSON.parse(said);
      }
      return watch;
    };
    const up = new Watch();
    up.run(['ip', 'netns', 'add', id]);
    up.ms += cni('ADD').ms;
    writeFileSync(join(this.#bundle, 'config.json'), JSON.stringify(spec(netns)));
    const base = [this.#runtime, '--root', join(this.#dir, 'run')];
    // The container keeps what it gets as output: a pipe would not end.
    up.run([...base, 'create', '--bundle', this.#bundle, id], { quiet: true });
    up.run([...base, 'start', id]);
    const exec = new Watch();
    exec.run([...base, 'exec', id, '/bin/busybox', 'true']);
    const down = new Watch();
    down.run([...base, 'delete', '--force', id]);
    down.ms += cni('DEL').ms;
    down.run(['ip', 'netns', 'delete', id]);
    return { up: up.ms, exec: exec.ms, down: down.ms };
  }

  remove(): void {
    spawnSync('ip', ['link', 'delete', 'floor0'], { stdio: 'ignore' });
    rmSync(this.#dir, { recursive: true, force: true });
  }
}

interface ConfList {
  readonly cniVersion: string;
  readonly name: string;
  readonly plugins: ReadonlyArray<Record<string, unknown>>;
}

function spec(netns: string): object {
  return {
    ociVersion: '1.0.2',
    process: { args: ['/bin/busybox', 'sleep', '100000'], cwd: '/', user: { uid: 0, gid: 0 }, env: ['PATH=/bin'] },
    root: { path: 'rootfs' },
    mounts: [
      { destination: '/proc', type: 'proc', source: 'proc' },
      { destination: '/dev', type: 'tmpfs', source: 'tmpfs', options: ['nosuid', 'mode=755', 'size=65536k'] },
      { destination: '/sys', type: 'sysfs', source: 'sysfs', options: ['ro'] },
    ],
    linux: {
      cgroupsPath: `/bench-floor/${randomBytes(4).toString('hex')}`,
      resources: { memory: { limit: 64 << 20 } },
      namespaces: [{ type: 'pid' }, { type: 'mount' }, { type: 'ipc' }, { type: 'uts' }, { type: 'network', path: netns }],
    },
  };
}
