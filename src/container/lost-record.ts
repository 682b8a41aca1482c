import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { isId, nowNs } from '../base/ids.ts';
import type { ContainerDeps } from './deps.ts';
import type { OciSpec } from './oci-spec/spec-types.ts';
import type { ContainerRecord } from './record.ts';
import { containerPaths } from './record.ts';

type Deps = Pick<ContainerDeps, 'stateDir' | 'bootId' | 'store'>;

/** Of a bundle, for the case that its record is lost. */
export const lostAnnotations = (owner: { sandboxId: string; runtimeHandler: string }): Record<string, string> => ({
  'gantry.sandbox-id': owner.sandboxId,
  'gantry.runtime-handler': owner.runtimeHandler,
});

/** Whose a bundle is; empty strings when it can't tell. */
export async function bundleOwner(stateDir: string, id: string): Promise<{ sandboxId: string; runtimeHandler: string }> {
  try {
    const { annotations } = JSON.parse(
      await readFile(join(containerPaths(stateDir, id).bundle, 'config.json'), 'utf8'),
    ) as Partial<OciSpec>;
    return { sandboxId: annotations?.['gantry.sandbox-id'] ?? '', runtimeHandler: annotations?.['gantry.runtime-handler'] ?? '' };
  } catch {
    return { sandboxId: '', runtimeHandler: '' };
  }
}

/** Bundles of containers that have no record: somebody deleted it. Those of pause processes are their sandboxes'. */
export async function lostContainers(deps: Deps): Promise<string[]> {
  const bundles = (await readdir(join(deps.stateDir, 'containers')).catch(() => [])).filter(isId);
  const pods = new Set(await readdir(join(deps.stateDir, 'pods')).catch(() => []));
  return bundles.filter((id) => deps.store.get(id) === undefined && !pods.has(id));
}

/** Stands for a record that is lost or can't be read: enough to list it, and to take down everything that can be derived from the id and the bundle. */
export async function lostRecord(deps: Deps, id: string): Promise<ContainerRecord> {
  const { sandboxId, runtimeHandler } = await bundleOwner(deps.stateDir, id);
  return {
    version: 1,
    id,
    sandboxId: isId(sandboxId) ? sandboxId : '',
    state: 'unknown',
    config: {
      metadata: { name: 'unknown', attempt: 0 },
      image: null,
      command: [],
      args: [],
      workingDir: '',
      envs: [],
      mounts: [],
      devices: [],
      labels: {},
      annotations: {},
      logPath: '',
      stdin: false,
      stdinOnce: false,
      tty: false,
      linux: null,
      windows: null,
      CDIDevices: [],
      stopSignal: 'RUNTIME_DEFAULT',
    },
    imageId: `sha256:${'0'.repeat(64)}`,
    imageRef: '',
    runtimeHandler,
    bootId: deps.bootId,
    cgroupPath: '',
    logPath: '',
    stopSignal: 15,
    user: { uid: 0, gid: 0, additionalGids: [] },
    resources: null,
    createdAtNs: String(nowNs()),
    startedAtNs: '0',
  };
}
