import { release } from 'node:os';
import type { Op } from '../base/op.ts';
import { run } from '../os/spawn.ts';
import type { HandlerFeatures } from './runtime.ts';
import type { StartFifo } from './start-fifo.ts';

/** Of a runtime that has no word on features. */
export const NO_FEATURES: HandlerFeatures = { recursiveReadOnlyMounts: false, userNamespaces: false, seccomp: true };

interface FeaturesDocument {
  readonly mountOptions?: unknown;
  readonly annotations?: Readonly<Record<string, unknown>>;
  readonly linux?: {
    readonly namespaces?: unknown;
    readonly mountExtensions?: { readonly idmap?: { readonly enabled?: unknown } };
    readonly seccomp?: { readonly enabled?: unknown };
  };
}

/** What the kernel does of it: mount_setattr(2), which read-only trees and idmapped mounts are made of, came with Linux 5.12. */
export function onKernel(features: HandlerFeatures, kernelRelease: string): HandlerFeatures {
  const [major = 0, minor = 0] = kernelRelease.split('.').map((part) => Number.parseInt(part, 10));
  if (major > 5 || (major === 5 && minor >= 12)) return features;
  return { ...features, recursiveReadOnlyMounts: false, userNamespaces: false };
}

/** Out of `<runtime> features` (OCI runtime-spec, features.md); a runtime without a word on idmapped mounts can't run a pod in a user namespace. */
export function parseFeatures(text: string): HandlerFeatures {
  let document: FeaturesDocument | null;
  try {
    document = JSON.parse(text) as FeaturesDocument | null;
  } catch {
    return NO_FEATURES;
  }
  if (typeof document !== 'object' || document === null) return NO_FEATURES;
  const { mountOptions } = document;
  const namespaces = document.linux?.namespaces;
  return {
    seccomp: hasSeccomp(document),
    recursiveReadOnlyMounts: Array.isArray(mountOptions) && mountOptions.includes('rro'),
    userNamespaces: document.linux?.mountExtensions?.idmap?.enabled === true && Array.isArray(namespaces) && namespaces.includes('user'),
  };
}

// runc leaves the whole part out when it was built without libseccomp; elsewhere what is not said is unknown.
function hasSeccomp({ linux, annotations }: FeaturesDocument): boolean {
  return (
    linux?.seccomp?.enabled !== false && (linux?.seccomp !== undefined || annotations?.['org.opencontainers.runc.version'] === undefined)
  );
}

/** `runtime`: argv up to the verb. Never fails: a runtime that has no such verb can do nothing special; undefined when it did not run or not answer in time. */
export async function discoverFeatures(op: Op, runtime: readonly string[]): Promise<HandlerFeatures | undefined> {
  try {
    const { exitCode, stdout } = await run(op, { argv: [...runtime, 'features'] });
    return exitCode === 0 ? onKernel(parseFeatures(stdout.toString('utf8')), release()) : NO_FEATURES;
  } catch {
    return undefined;
  }
}

/** What makes the runtimes different to drive. */
export interface Traits {
  /** First word of `--version`: runc, crun, runsc, ... */
  readonly program: string;
  readonly version: string;
  /** The container's processes are processes of the host: init's pid takes signals, exec'd ones can be adopted. */
  readonly hostProcesses: boolean;
  /** Where `exec --cgroup` can be trusted. crun 1.8 on v1 takes the process out of all of the container's other cgroups. */
  readonly subCgroups: 'v1+v2' | 'v2' | 'none';
  /** How init is told to go on; undefined: only the runtime knows. */
  readonly startFifo: StartFifo | undefined;
}

const START_FIFOS: Readonly<Record<string, StartFifo>> = { runc: 'read', crun: 'write' };

/** `runc version 1.1.5+ds1` / `runsc version release-2022...`; an unknown program is driven like runc, the reference, but without sub-cgroups. */
export function parseTraits(versionOutput: string): Traits {
  const [, program = 'unknown', version = ''] = /^(\S+) version:? (\S+)/m.exec(versionOutput) ?? [];
  const subCgroups = program === 'runc' ? 'v1+v2' : program === 'crun' ? 'v2' : 'none';
  return { program, version, hostProcesses: program !== 'runsc', subCgroups, startFifo: START_FIFOS[program] };
}
