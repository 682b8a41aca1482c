import type { Op } from '../base/op.ts';

export interface PodNetworkRequest {
  readonly sandboxId: string;
  /** Path of the pinned netns; "" when it is gone (after a reboot): plugins tolerate that on DEL. */
  readonly netnsPath: string;
  readonly pod: { readonly name: string; readonly namespace: string; readonly uid: string };
  readonly portMappings: ReadonlyArray<{ protocol: 'tcp' | 'udp' | 'sctp'; containerPort: number; hostPort: number; hostIP: string }>;
  readonly dns: { servers: readonly string[]; searches: readonly string[]; options: readonly string[] };
  readonly cgroupPath: string;
  /** Pod annotations kubernetes.io/{in,e}gress-bandwidth, bits per second. */
  readonly bandwidth: { ingressRate: number; egressRate: number } | undefined;
  /** No pod waits for it: the plugins get what processor time others leave. */
  readonly inBackground?: boolean;
}

/** Persisted in the sandbox record; `conflist` and `result` are what DEL and CHECK need (CNI spec, "cached results"). */
export interface Attachment {
  readonly network: string;
  readonly ifName: string;
  readonly ips: readonly string[];
  readonly mac: string | undefined;
  readonly conflist: unknown;
  readonly result: unknown;
}

/** What is known of an attach when it is undone; without a result it may have ended anywhere. */
export type Begun = Pick<Attachment, 'conflist'> & Partial<Attachment>;

export interface NetworkStatus {
  readonly ready: boolean;
  readonly reason: string;
  readonly message: string;
}

export interface Network {
  /** Watched conf dir, damped STATUS polling; from memory, never waits. */
  status(): NetworkStatus;
  /** The conflist in force, looked at anew, to be recorded before an attach by it. failedPrecondition when there is none. */
  conflist(): Promise<unknown>;
  /** ADD chain of the conflist, by default of the one in force. On failure the chain was DELed. Errors: plugin name and its own words. */
  attach(op: Op, request: PodNetworkRequest, conflist?: unknown): Promise<Attachment>;
  /** DEL in reverse order with the cached result, by the conflist that ADD began with or else the one in force. Idempotent. */
  detach(op: Op, request: PodNetworkRequest, begun: Begun | undefined): Promise<void>;
  /**
   * The conflist in force, looked at anew, as `Attachment.conflist` has it; undefined unless a sandbox may be attached by it before anything of its pod is
   * known (DESIGN 3.10).
   */
  aheadConflist(): Promise<unknown>;
  /** Calls back whenever the configuration has changed. */
  onChange(listener: () => void): void;
  check(op: Op, request: PodNetworkRequest, attachment: Attachment): Promise<void>;
  /** GC where plugins know it: everything but these sandbox ids is stale (plus host-local IPAM entries after a reboot). */
  gc(op: Op, validSandboxIds: readonly string[]): Promise<void>;
  close(): Promise<void>;
}
