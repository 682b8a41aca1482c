import { chmodSync, closeSync, mkdirSync, openSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import type { ServiceError } from '@grpc/grpc-js';
import { findProgram } from '../../hack/images/programs.ts';
import { mount, mountsUnder, umount } from '../../src/os/mount.ts';
import { argvOf } from '../../src/os/process.ts';
import type { Gantry } from './gantry.ts';
import { pluginDir } from './gantry.ts';
import { addressesOfPods, allAddresses, ofPods } from './warm.ts';

/** Stands in for a program and runs it, unless a script that a test injects says otherwise. The program's way of working stays its own. */
export class Faulty {
  readonly path: string;
  readonly #script: string;

  /** `prelude` goes before the script and sets its variables. */
  constructor(dir: string, real: string, prelude = '') {
    mkdirSync(dir, { recursive: true });
    this.path = join(dir, basename(real));
    this.#script = `${this.path}.fault`;
    rmSync(this.path, { force: true });
    writeFileSync(this.path, `#!/bin/sh\n${prelude}\nif [ -f ${this.#script} ]; then . ${this.#script}; fi\nexec ${real} "$@"\n`);
    chmodSync(this.path, 0o755);
  }

  /** A piece of sh that runs before the program, in its place if it exits; in force from the next execution on. */
  inject(script: string): void {
    writeFileSync(this.#script, script);
  }

  heal(): void {
    rmSync(this.#script, { force: true });
  }

  /** For a script: sleeps in short pieces, so that nothing of it is left when it is killed, until `seconds` are over or the fault is healed. */
  stall(seconds: number): string {
    return `n=0; while [ $n -lt ${seconds * 20} ] && [ -f ${this.#script} ]; do n=$((n + 1)); sleep 0.05; done`;
  }
}

/** A directory of the machine's CNI plugins in which `name` is faulty; CNI_COMMAND tells its script the verb. */
export function faultyPlugin(dir: string, name: string): Faulty {
  mkdirSync(dir, { recursive: true });
  for (const each of readdirSync(pluginDir())) symlinkSync(join(pluginDir(), each), join(dir, each));
  return new Faulty(dir, join(pluginDir(), name));
}

/** An OCI runtime whose script finds the verb in `$verb`. */
export function faultyRuntime(dir: string, name = 'runc'): Faulty {
  const verbs = ['create', 'start', 'kill', 'delete', 'exec', 'state', 'update'].join('|');
  return new Faulty(dir, programPath(name), `verb=\nfor word; do case $word in ${verbs}) verb=$word; break ;; esac; done`);
}

/** The same by a name that the driver does not know: all that it does goes by the command line, starts too. */
export function faultyUnknownRuntime(dir: string): Faulty {
  const runtime = faultyRuntime(dir);
  writeFileSync(
    runtime.path,
    readFileSync(runtime.path, 'utf8').replace('\n', '\n[ "$1" != --version ] || { echo unknown version 1; exit; }\n'),
  );
  return runtime;
}

/** A program that is looked up on PATH; `dir` has to come first there. */
export const faultyProgram = (dir: string, name: string): Faulty => new Faulty(dir, programPath(name));

function programPath(name: string): string {
  const path = findProgram(name);
  if (path === undefined) throw new Error(`no ${name} on this machine: run hack/install`);
  return path;
}

/** A FUSE filesystem that never answers: whoever looks at the path waits until it is killed, as with a dead NFS server. */
export class HungPath implements AsyncDisposable {
  readonly path: string;
  #device: number | undefined;

  constructor(path: string) {
    mkdirSync(path, { recursive: true });
    this.path = path;
    this.#device = openSync('/dev/fuse', 'r+');
    mount({ type: 'fuse', source: 'hung', target: path, data: `fd=${this.#device},rootmode=40000,user_id=0,group_id=0` });
  }

  /** Whoever waits gets an error. */
  abort(): void {
    if (this.#device !== undefined) closeSync(this.#device);
    this.#device = undefined;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.abort();
    await umount(this.path, { detach: true });
  }
}

/** The error that a call is expected to end with. */
export const failure = (call: Promise<unknown>): Promise<ServiceError> =>
  call.then(
    (value) => Promise.reject(new Error(`it succeeded: ${JSON.stringify(value)}`)),
    (error: unknown) => error as ServiceError,
  );

export const percentile = (values: readonly number[], share: number): number =>
  [...values].sort((a, b) => a - b)[Math.min(values.length - 1, Math.floor(values.length * share))] ?? NaN;

/** What is left of pods in a Gantry that has none any more, but for what its warm sandboxes have: by name, so that a difference reads as a message. */
export const remains = (gantry: Gantry): string[] => ofPods(gantry, () => allRemains(gantry));

function allRemains(gantry: Gantry): string[] {
  const names = (dir: string): string[] => {
    try {
      return readdirSync(dir);
    } catch {
      return [];
    }
  };
  const inState = [
    'pods',
    'containers',
    ...names(join(gantry.state, 'runtime')).flatMap((handler) => [`runtime/${handler}/c`, `runtime/${handler}/root`]),
  ];
  return [
    ...mountsUnder(gantry.state).map((path) => `mount ${path}`),
    ...inState.flatMap((dir) => names(join(gantry.state, dir)).map((name) => `${dir}/${name}`)),
    ...['sandboxes', 'containers'].flatMap((dir) => names(join(gantry.root, dir)).map((name) => `${dir}/${name}`)),
    ...names(join(gantry.snapshots, 'active')).map((name) => `snapshot ${name}`),
    ...allAddresses(gantry).map(({ name }) => `address ${name}`),
    ...names('/sys/class/net').filter((name) => name.startsWith('veth')),
    ...processesOf(gantry),
  ];
}

/** Addresses that host-local has given out to pods. */
export const addresses = addressesOfPods;

/** Monitors and runtimes: whatever names the state directory. What the daemon is just about to execute still has the daemon's own argv. */
function processesOf(gantry: Gantry): string[] {
  const own = argvOf(gantry.pid).join(' ');
  return readdirSync('/proc').flatMap((name) => {
    const argv = /^\d+$/.test(name) ? argvOf(Number(name)).join(' ') : '';
    return argv.includes(gantry.state) && argv !== own ? [`process ${name} ${argv}`] : [];
  });
}
