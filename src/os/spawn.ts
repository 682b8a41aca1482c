import type { Op } from '../base/op.ts';
import type { ProcessRef } from './process.ts';

export interface ExitStatus {
  /** 0-255; 128 + signal when a signal ended it (the convention of shells and of the CRI). */
  readonly exitCode: number;
  readonly signal: number;
  readonly exitedAtNs: bigint;
}

export interface SpawnOptions {
  /** argv[0] is an absolute path or looked up on PATH. */
  readonly argv: readonly string[];
  /** The child's whole environment; default only PATH. */
  readonly env?: Readonly<Record<string, string>>;
  readonly cwd?: string;
  /** A descriptor of ours, or 'null' (default) for /dev/null. */
  readonly stdin?: number | 'null';
  readonly stdout?: number | 'null';
  readonly stderr?: number | 'null';
  /** Child's descriptor number (>= 3) -> ours. Everything else is closed in the child. */
  readonly fds?: ReadonlyMap<number, number>;
  /** New session (and so a process group of its own). */
  readonly setsid?: boolean;
}

export interface Child extends ProcessRef {
  readonly exited: Promise<ExitStatus>;
  /** Through the pidfd: never hits a recycled pid; a gone child is no error. */
  kill(signal: number): void;
}

export interface RunOptions extends Omit<SpawnOptions, 'stdin' | 'stdout' | 'stderr' | 'setsid'> {
  readonly input?: string | Uint8Array;
  /** Of each stream; beyond it output is dropped and `truncated` set. Default 1 MiB. */
  readonly maxOutputBytes?: number;
}

export interface RunResult extends ExitStatus {
  readonly stdout: Buffer;
  readonly stderr: Buffer;
  readonly truncated: boolean;
}

export declare function spawn(options: SpawnOptions): Child;
/** Runs to the end; a non-zero exit is a result, not an error. When the op ends first the child's process group gets SIGKILL and the error is deadlineExceeded/cancelled. */
export declare function run(op: Op, options: RunOptions): Promise<RunResult>;
