import { join } from 'node:path';

/** Where a sandbox keeps what ends with it; all of it lies in the state directory and is gone after a reboot. */
export interface PodPaths {
  readonly dir: string;
  readonly namespaces: string;
  /** The pinned user namespace, where the pod has one. */
  readonly user: string;
  readonly shm: string;
  readonly resolvConf: string;
  readonly hostname: string;
  readonly pauseBundle: string;
}

export function podPaths(stateDir: string, id: string): PodPaths {
  const dir = join(stateDir, 'pods', id);
  return {
    dir,
    namespaces: join(dir, 'ns'),
    user: join(dir, 'ns', 'user'),
    shm: join(dir, 'shm'),
    resolvConf: join(dir, 'resolv.conf'),
    hostname: join(dir, 'hostname'),
    pauseBundle: join(dir, 'pause'),
  };
}
