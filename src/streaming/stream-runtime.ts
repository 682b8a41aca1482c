import type { Readable, Writable, Duplex } from 'node:stream';

/** In characters. */
export interface TerminalSize {
  readonly width: number;
  readonly height: number;
}

/**
 * The ends of one session's streams, as the client asked for them. All respect backpressure: a client that stops reading makes `write` return false, and
 * the server disconnects it (aborting `signal`) when it stays behind. The runtime never closes what it did not begin to use.
 */
export interface ClientStreams {
  /** Ends at the client's half-close. */
  readonly stdin: Readable | undefined;
  readonly stdout: Writable | undefined;
  /** Undefined with a terminal: it has one output. */
  readonly stderr: Writable | undefined;
  /** Calls back for each size that the client's terminal takes, first of all the one it has. */
  onResize(listener: (size: TerminalSize) => void): void;
}

export interface ExecSession {
  readonly containerId: string;
  readonly command: readonly string[];
  readonly tty: boolean;
}

export interface AttachSession {
  readonly containerId: string;
  readonly tty: boolean;
}

/**
 * What the streaming server needs of the world; `daemon.ts` wires it. `signal` aborts when the client is gone, was too slow or idle, or the daemon ends:
 * then everything that belongs to the session is released. Errors are ClassifiedErrors; the server tells them to the client.
 */
export interface StreamRuntime {
  /** Resolves with the command's exit code when it ended and all of its output is written; an abort kills the whole tree (R14). */
  exec(signal: AbortSignal, session: ExecSession, streams: ClientStreams): Promise<number>;
  /** Resolves when the container's init ended; an abort only detaches. */
  attach(signal: AbortSignal, session: AttachSession, streams: ClientStreams): Promise<void>;
  /** A connection to `127.0.0.1:port` (or ::1) in the pod's network namespace. Rejects when nothing listens there. */
  connect(signal: AbortSignal, podSandboxId: string, port: number): Promise<Duplex>;
}
