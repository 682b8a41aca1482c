import type { LogFormat, LogLevel } from '../base/log.ts';

export interface HandlerConfig {
  readonly name: string;
  /** Driver; `oci` = runc, crun, runsc through conmon. */
  readonly type: 'oci';
  /** Path or name on PATH of the OCI runtime's binary. */
  readonly path: string;
  /** Global arguments before the verb, e.g. ["--platform=ptrace"]. */
  readonly args: readonly string[];
  readonly snapshotter: string;
}

/** Validated and frozen; every path absolute. */
export interface Config {
  /** Persistent: content, snapshots, records. Default /var/lib/gantry. */
  readonly root: string;
  /** Sockets and mounts. Default /run/gantry. */
  readonly state: string;
  /** Unix socket path of the CRI. Default <state>/gantry.sock. */
  readonly socket: string;
  readonly streaming: {
    readonly address: string;
    /** 0: any free one. */
    readonly port: number;
    readonly tls: { readonly certFile: string; readonly keyFile: string } | undefined;
  };
  readonly cni: { readonly confDir: string; readonly binDirs: readonly string[]; readonly statusGraceMs: number };
  /** As many sandboxes are kept ready for pods to come, at most; 0: none. `warmBurst`: for a while after a burst of pods. */
  readonly sandbox: { readonly warm: number; readonly warmBurst: number };
  /** Port 0: none are served. */
  readonly metrics: { readonly address: string; readonly port: number };
  readonly cdi: { readonly specDirs: readonly string[] };
  readonly registry: { readonly hostsDir: string };
  readonly image: {
    readonly snapshotter: 'overlay' | 'erofs' | 'auto';
    readonly pinned: readonly string[];
    readonly pauseImage: string;
    readonly maxConcurrentDownloads: number;
    readonly compressedBlobs: 'keep' | 'discard';
    readonly verify: 'off' | 'quick' | 'full';
  };
  readonly cgroup: { readonly driver: 'cgroupfs' | 'systemd' };
  readonly defaultHandler: string;
  readonly handlers: readonly HandlerConfig[];
  readonly conmon: { readonly path: string };
  /** Of a client that retries: how long a result waits for it is twice this, or twice its own deadline if that is longer. */
  readonly operation: { readonly patienceMs: number };
  readonly log: { readonly level: LogLevel; readonly format: LogFormat };
}
