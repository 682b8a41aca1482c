import type { Readable, Writable } from 'node:stream';
import type { Op } from '../base/op.ts';
import type { ProcessRef } from '../os/process.ts';
import type { ExitStatus } from '../os/spawn.ts';

/** What `<runtime> features` (or a probe) says a handler can do; Status reports the first two as RuntimeHandlerFeatures. */
export interface HandlerFeatures {
  readonly recursiveReadOnlyMounts: boolean;
  readonly userNamespaces: boolean;
  /** false only where it is known: such a runtime was built without libseccomp and refuses specs with a profile. */
  readonly seccomp: boolean;
}

export interface ContainerIo {
  /** CRI log file (absolute) or undefined for none. */
  readonly logPath: string | undefined;
  readonly tty: boolean;
  readonly stdin: boolean;
  readonly stdinOnce: boolean;
}

export interface CreateRequest {
  readonly id: string;
  /** Has config.json and (mounted) rootfs; owned by the caller, 0700. */
  readonly bundle: string;
  readonly io: ContainerIo;
  /** The pod's cgroup, for what a driver runs on the pod's account (a VM). A monitor is not: it stays outside of the pod's memory limit (R20). */
  readonly cgroupParent: string;
}

/** What is persisted of a created container; enough to find it again after a restart. */
export interface CreatedContainer {
  readonly init: ProcessRef;
  readonly monitor: ProcessRef;
}

export interface ExecRequest {
  /** OCI `process` object (config.json's process with args, cwd, env, user, capabilities ...). */
  readonly process: Readonly<Record<string, unknown>>;
  /** Of each stream. */
  readonly maxOutputBytes: number;
  readonly timeoutMs: number | undefined;
}

export interface ExecResult {
  readonly exitCode: number;
  readonly stdout: Buffer;
  readonly stderr: Buffer;
  /** There was more than `maxOutputBytes`. */
  readonly truncated: { readonly stdout: boolean; readonly stderr: boolean };
}

/** In characters. */
export interface TerminalSize {
  readonly width: number;
  readonly height: number;
}

/** A client's ends. They respect backpressure and stay the client's: the runtime neither ends nor destroys them. */
export interface ProcessStreams {
  readonly stdin: Readable | undefined;
  readonly stdout: Writable | undefined;
  /** Undefined with a terminal: it has one output. */
  readonly stderr: Writable | undefined;
  /** Calls back for each size of the client's terminal. */
  onResize(listener: (size: TerminalSize) => void): void;
}

export interface ExecStreamRequest {
  /** As in ExecRequest. */
  readonly process: Readonly<Record<string, unknown>>;
  readonly tty: boolean;
  readonly streams: ProcessStreams;
}

export interface AttachRequest {
  /** As the container was created. */
  readonly io: Pick<ContainerIo, 'tty' | 'stdin' | 'stdinOnce'>;
  readonly streams: ProcessStreams;
}

export interface Resources {
  readonly linux: Readonly<Record<string, unknown>>;
}

export interface RuntimeExit extends ExitStatus {
  readonly oomKilled: boolean;
}

/** The OCI verbs behind one runtime handler. A driver owns its state directory and the monitor of each container. */
export interface Runtime {
  readonly handler: string;
  features(): Promise<HandlerFeatures>;
  version(op: Op): Promise<string>;
  /** Creates, does not start. On error nothing is left: no process, cgroup or state. Errors carry the runtime's own words (stderr tail). */
  create(op: Op, request: CreateRequest): Promise<CreatedContainer>;
  start(op: Op, id: string): Promise<void>;
  /** Whether `start` has had its effect and the container still runs, in the runtime's own words. */
  isStarted(op: Op, id: string): Promise<boolean>;
  /** To init only, or to every process of its cgroup. A gone container is no error. */
  kill(op: Op, id: string, signal: number, all: boolean): Promise<void>;
  /** Resolves when init has ended, whoever started the daemon; works for containers of an earlier daemon (exit file). */
  waitExit(id: string, created: CreatedContainer): Promise<RuntimeExit>;
  /** Force-deletes container, cgroup, monitor and everything the driver keeps. Idempotent; missing is ok. First ends whatever `create` left half-done. */
  delete(op: Op, id: string): Promise<void>;
  execSync(op: Op, id: string, request: ExecRequest): Promise<ExecResult>;
  /** Resolves with the exit code when the process ended and its output is written; children that it left run on. When the op ends, its whole tree is killed. */
  exec(op: Op, id: string, request: ExecStreamRequest): Promise<number>;
  /**
   * Connects a client to init's streams from now on. Resolves when init has closed them and all is written, or when the op ends: that only detaches. A client
   * that falls behind is let go (resourceExhausted) and never stalls the container. failedPrecondition when the container has ended.
   */
  attach(op: Op, id: string, request: AttachRequest): Promise<void>;
  update(op: Op, id: string, resources: Resources): Promise<void>;
  /** Returns once the new log file is the one written to (R25). */
  reopenLog(op: Op, id: string): Promise<void>;
  /** Ids that this driver has state for. */
  list(op: Op): Promise<string[]>;
}
