import { randomBytes } from 'node:crypto';
import { readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { after, before } from 'mocha';
import { mountsUnder } from '../../src/os/mount.ts';
import { argvOf, descendantsOf, isAlive } from '../../src/os/process.ts';
import { spawn } from '../../src/os/spawn.ts';

/** What a suite may not leave behind. Each line names one thing, so that a difference reads as a message. */
export interface Belongings {
  readonly mounts: readonly string[];
  readonly interfaces: readonly string[];
  readonly cgroups: readonly string[];
  readonly children: readonly string[];
  readonly descriptors: readonly string[];
}

export interface LeakScope {
  /** Only mounts below these count: other suites may run beside this one. Default: all. */
  readonly mountPrefixes?: readonly string[];
  /** Starts what stays for the life of the process, before the first look. The reactor is started anyway. */
  readonly warm?: () => Promise<unknown>;
}

/** Begins the names of this process' cgroups: the tree of cgroups is the machine's, and other suites may run beside this one. */
export const TEST_CGROUP = `gantry-test-${randomBytes(4).toString('hex')}`;

const SETTLE_MS = 3000;
const CGROUPS = '/sys/fs/cgroup';

export function belongings(scope: LeakScope = {}): Belongings {
  return {
    mounts: (scope.mountPrefixes ?? ['/']).flatMap((prefix) => mountsUnder(prefix)),
    interfaces: scope.mountPrefixes === undefined ? readdirSync('/sys/class/net') : [],
    cgroups: cgroupsNamed(TEST_CGROUP),
    children: descendantsOf(process.pid)
      .filter(isAlive)
      .map(({ pid }) => `${pid} ${argvOf(pid).join(' ')}`),
    descriptors: descriptors(),
  };
}

function cgroupsNamed(prefix: string): string[] {
  const roots = [CGROUPS, ...readdirSync(CGROUPS).map((name) => `${CGROUPS}/${name}`)];
  return roots.flatMap((root) => {
    try {
      return readdirSync(root)
        .filter((name) => name.startsWith(prefix))
        .map((name) => `${root}/${name}`);
    } catch {
      return [];
    }
  });
}

// Numbers are reused, so what a descriptor is counts, not its number. What Node's and our threads wait with comes and goes with them.
function descriptors(): string[] {
  return readdirSync('/proc/self/fd').flatMap((fd) => {
    try {
      const target = readlinkSync(`/proc/self/fd/${fd}`).replace(/:\[\d+\]$/, '');
      return /^\/proc\/\d+\/fd$|eventpoll|eventfd|io_uring/.test(target) ? [] : [target];
    } catch {
      return [];
    }
  });
}

/** What is in `now` and was not in `before`, counted. */
function more(now: readonly string[], before: readonly string[]): string[] {
  const left = [...before];
  return now.filter((each) => {
    const at = left.indexOf(each);
    if (at >= 0) left.splice(at, 1);
    return at < 0;
  });
}

/** Throws, naming each, if there is more of a kind in `earlier` than before after things had three seconds to settle. */
export async function expectNoLeaks(earlier: Partial<Belongings>, scope: LeakScope = {}): Promise<void> {
  const untilMs = Date.now() + SETTLE_MS;
  for (;;) {
    const now = belongings(scope);
    const leaks = (Object.keys(earlier) as Array<keyof Belongings>).flatMap((kind) =>
      more(now[kind], earlier[kind] ?? []).map((name) => `${kind}: ${name}`),
    );
    if (leaks.length === 0) return;
    if (Date.now() > untilMs) throw new Error(`the suite leaves behind\n  ${leaks.join('\n  ')}`);
    await sleep(20);
  }
}

/** In a `describe`: the suite fails if it leaves a mount, interface, cgroup, child process or descriptor behind. First of all hooks. */
export function leaksFail(scope: LeakScope = {}): void {
  let earlier: Belongings;
  before(async () => {
    await spawn({ argv: ['true'] }).exited;
    await scope.warm?.();
    earlier = belongings(scope);
  });
  after(async function () {
    this.timeout(SETTLE_MS + 2000);
    await expectNoLeaks(earlier, scope);
  });
}

/** Lines of mountinfo, for tests that look at options. */
export const mountLines = (target: string): string[] =>
  readFileSync('/proc/self/mountinfo', 'utf8')
    .split('\n')
    .filter((line) => line.split(' ')[4] === target);
