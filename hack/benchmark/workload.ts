import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import type { PodSandboxConfig } from '../../src/gen/cri/runtime/v1/PodSandboxConfig.ts';
import type { Contender } from './contender.ts';

export const IMAGE = 'images.test/demo:1';

export interface Up {
  readonly podSandboxId: string;
  readonly containerId: string;
}

export interface PodOptions {
  readonly hostNetwork?: boolean;
  readonly handler?: string;
}

let serial = 0;

/** As a kubelet would: a pod with a network of its own unless said otherwise, a PID namespace for each container, a memory limit, a log. */
export async function podUp(who: Contender, options: PodOptions = {}): Promise<Up> {
  const name = `bench-${++serial}`;
  const logDirectory = join(who.dir, 'logs', name);
  mkdirSync(logDirectory, { recursive: true });
  const config: PodSandboxConfig = {
    metadata: { name, uid: name, namespace: 'bench', attempt: 0 },
    hostname: options.hostNetwork ? '' : name,
    logDirectory,
    linux: {
      cgroupParent: `/bench-${who.name}/${name}`,
      securityContext: { namespaceOptions: { pid: 'CONTAINER', network: options.hostNetwork ? 'NODE' : 'POD' } },
    },
  };
  const { podSandboxId } = await who.cri.runtime('runPodSandbox', { config, runtimeHandler: options.handler ?? '' });
  const { containerId } = await who.cri.runtime('createContainer', {
    podSandboxId,
    sandboxConfig: config,
    config: {
      metadata: { name: 'app', attempt: 0 },
      image: { image: IMAGE },
      command: ['sleep', '100000'],
      logPath: 'app.log',
      linux: { resources: { memoryLimitInBytes: String(64 << 20) } },
    },
  });
  await who.cri.runtime('startContainer', { containerId });
  return { podSandboxId, containerId };
}

export async function podDown(who: Contender, { podSandboxId, containerId }: Up): Promise<void> {
  await who.cri.runtime('stopContainer', { containerId, timeout: 0 });
  await who.cri.runtime('stopPodSandbox', { podSandboxId });
  await who.cri.runtime('removePodSandbox', { podSandboxId });
}

/** Milliseconds. */
export async function timed(work: () => Promise<unknown>): Promise<number> {
  const startedAt = performance.now();
  await work();
  return performance.now() - startedAt;
}

/** `count` pods, at most `concurrency` being started at a time. */
export async function podsUp(who: Contender, count: number, concurrency: number, options: PodOptions = {}): Promise<Up[]> {
  const ups: Up[] = [];
  let left = count;
  const lane = async (): Promise<void> => {
    while (left-- > 0) ups.push(await podUp(who, options));
  };
  await Promise.all(Array.from({ length: concurrency }, lane));
  return ups;
}

export async function podsDown(who: Contender, ups: readonly Up[]): Promise<void> {
  const left = [...ups];
  const lane = async (): Promise<void> => {
    for (let up = left.pop(); up !== undefined; up = left.pop()) await podDown(who, up);
  };
  await Promise.all(Array.from({ length: 8 }, lane));
}
