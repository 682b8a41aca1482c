import { mkdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { demoImage, demoPause } from '../../hack/images/demo.ts';
import type { Image } from '../../hack/images/image.ts';
import type { StaticRegistry } from '../../hack/images/registry.ts';
import { serveImages } from '../../hack/images/registry.ts';
import type { ContainerConfig } from '../../src/gen/cri/runtime/v1/ContainerConfig.ts';
import type { PodSandboxConfig } from '../../src/gen/cri/runtime/v1/PodSandboxConfig.ts';
import { removeCgroup } from '../../src/os/cgroup.ts';
import type { Cri } from './cri.ts';
import type { GantryOptions } from './gantry.ts';
import { Gantry } from './gantry.ts';
import type { Belongings } from './leaks.ts';
import { belongings, expectNoLeaks, TEST_CGROUP } from './leaks.ts';

export const DEMO_IMAGE = 'images.test/demo:1';
/** Parent of every pod's cgroup; a kubelet would make and remove it. */
export const CGROUP = `/${TEST_CGROUP}`;
export const PAUSE_IMAGE = 'images.test/pause:1';

/** A private Gantry with a registry of one image, and what tests do with them all the time. Ended by `end`, in any state. */
export class Bed {
  readonly gantry: Gantry;
  readonly #before: Partial<Belongings>;
  readonly #registry: StaticRegistry;

  private constructor(before: Partial<Belongings>, gantry: Gantry, registry: StaticRegistry) {
    this.#before = before;
    this.gantry = gantry;
    this.#registry = registry;
  }

  /** `images`: more that the registry serves as images.test/<name>, by repository:tag. */
  static async make({ images = new Map(), ...options }: GantryOptions & { images?: ReadonlyMap<string, Image> } = {}): Promise<Bed> {
    await removeCgroup(CGROUP);
    // The descriptors of this process are no business of the daemon's.
    const { mounts, interfaces, cgroups, children } = belongings();
    const before = { mounts, interfaces, cgroups, children };
    const image = await demoImage();
    const registry = await serveImages(new Map([['demo:1', image], ['demo:latest', image], ['pause:1', await demoPause()], ...images]));
    const gantry = new Gantry({
      mirrors: { 'images.test': registry.host },
      ...options,
      flags: ['--pause-image', PAUSE_IMAGE, ...(options.flags ?? [])],
    });
    await gantry.start();
    await gantry.cri.image('pullImage', { image: { image: DEMO_IMAGE } });
    return new Bed(before, gantry, registry);
  }

  get cri(): Cri {
    return this.gantry.cri;
  }

  /** Fails naming what is left of pods and daemon: mounts, interfaces, cgroups, processes. */
  async end(): Promise<void> {
    try {
      await this.gantry.remove();
      await removeCgroup(CGROUP);
      await expectNoLeaks(this.#before);
    } finally {
      await this.#registry[Symbol.asyncDispose]();
    }
  }

  /** A pod with a directory of its own for logs and its cgroups below `CGROUP`. */
  podConfig(name: string, change: PodSandboxConfig = {}): PodSandboxConfig {
    const logDirectory = join(this.gantry.dir, 'logs', name);
    mkdirSync(logDirectory, { recursive: true });
    return {
      metadata: { name, uid: `uid-${name}`, namespace: 'default', attempt: 0 },
      hostname: name,
      logDirectory,
      labels: { test: name },
      ...change,
      linux: { cgroupParent: `${CGROUP}/${name}`, ...change.linux },
    };
  }

  async runPod(config: PodSandboxConfig, runtimeHandler = ''): Promise<string> {
    return (await this.cri.runtime('runPodSandbox', { config, runtimeHandler })).podSandboxId;
  }

  containerConfig(name: string, script: string, change: ContainerConfig = {}): ContainerConfig {
    return {
      metadata: { name, attempt: 0 },
      image: { image: DEMO_IMAGE },
      command: ['sh', '-c', script],
      logPath: `${name}.log`,
      ...change,
    };
  }

  /** Created and started. */
  async runContainer(podSandboxId: string, sandboxConfig: PodSandboxConfig, config: ContainerConfig): Promise<string> {
    const { containerId } = await this.cri.runtime('createContainer', { podSandboxId, config, sandboxConfig });
    await this.cri.runtime('startContainer', { containerId });
    return containerId;
  }

  /** The log without the times and tags of its lines; '' while there is none. */
  logOf(pod: string, container: string): string {
    try {
      return readFileSync(join(this.gantry.dir, 'logs', pod, `${container}.log`), 'utf8').replace(/^\S+ (?:stdout|stderr) [FP] /gm, '');
    } catch {
      return '';
    }
  }

  async status(containerId: string): Promise<NonNullable<Awaited<ReturnType<Bed['fullStatus']>>['status']>> {
    const { status } = await this.fullStatus(containerId);
    if (status === null) throw new Error(`no status of ${containerId}`);
    return status;
  }

  fullStatus(containerId: string) {
    return this.cri.runtime('containerStatus', { containerId, verbose: true });
  }

  /** The pid of the container's first process, from the verbose status. */
  async pidOf(containerId: string): Promise<number> {
    const { info } = await this.fullStatus(containerId);
    for (const text of Object.values(info) as string[]) {
      const pid = /"pid":\s*(\d+)/.exec(String(text))?.[1];
      if (pid !== undefined) return Number(pid);
    }
    throw new Error(`the verbose status of ${containerId} has no pid: ${JSON.stringify(info)}`);
  }
}

/** Asks until it holds; fails with what it was about. */
export async function eventually(what: string, holds: () => boolean | Promise<boolean>, timeoutMs = 10_000): Promise<void> {
  const untilMs = Date.now() + timeoutMs;
  while (!(await holds())) {
    if (Date.now() > untilMs) throw new Error(`not within ${timeoutMs} ms: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}
