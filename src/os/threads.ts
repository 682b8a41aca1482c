import { setPriority } from 'node:os';
import { parentPort, Worker } from 'node:worker_threads';
import type { Transferable } from 'node:worker_threads';

/** A thread at work for one user. It has to go back by `release` or to be ended by `stop`. */
export interface Thread {
  post(message: unknown, transfer?: readonly Transferable[]): void;
  /** Its messages from now on; one listener at a time. */
  listen(listener: (message: unknown) => void): void;
  /** Resolves when it is gone, with what it threw, if it did. */
  readonly ended: Promise<Error | undefined>;
  /** It waits for somebody's next job. Not after a failure: work that it began may still be under way. */
  release(): void;
  /** Descriptors that it was given may be closed once `ended` resolves. */
  stop(): void;
}

/**
 * They are kept this long for what comes next: to begin one takes as long as reading some megabytes, and until its code is compiled again a layer of 25,000 files
 * takes a fifth longer.
 */
const IDLE_MS = 120_000;

const NICE = 10;
const URGENT_NICE = -5;

/**
 * The other side, called once by a thread's module: what it does with the messages of the one that began it, and `tell` for what it has to say. The event loop,
 * and whoever else has little to do, gets the processor before it.
 */
export function serveStarter<Message>(handle: (message: Message, tell: (news: object) => void) => void): void {
  // Linux: of this thread alone.
  setPriority(NICE);
  parentPort?.on('message', (message: Message) => handle(message, tell));
}

/**
 * For this moment with more priority than anybody: Node holds the lock of the messages while it wakes up the event loop, which would have to wait, 10 to 50 ms,
 * until a thread that lost the processor in this moment had its turn again.
 */
function tell(news: object): void {
  try {
    setPriority(URGENT_NICE);
  } catch {
    // Who may not rise says it as it is.
  }
  try {
    parentPort?.postMessage(news);
  } finally {
    setPriority(NICE);
  }
}

interface Kept {
  readonly worker: Worker;
  /** Tells its user of the moment that it is gone. */
  ended: (error: Error | undefined) => void;
  timer?: NodeJS.Timeout;
}

/** Threads of one module that take one job after another, and end when there is none. How many there are is up to those who ask. */
export class Threads {
  readonly #script: URL;
  readonly #maxIdle: number;
  readonly #idle: Kept[] = [];

  /** `script`: the module, without extension. */
  constructor(script: URL, maxIdle: number) {
    this.#script = new URL(`${script.href}.${import.meta.url.endsWith('.ts') ? 'ts' : 'js'}`);
    this.#maxIdle = maxIdle;
  }

  take(): Thread {
    const kept = this.#idle.pop() ?? this.#begin();
    const { worker } = kept;
    const { promise: ended, resolve } = Promise.withResolvers<Error | undefined>();
    kept.ended = resolve;
    clearTimeout(kept.timer);
    worker.ref();
    return {
      ended,
      post: (message, transfer = []) => worker.postMessage(message, transfer),
      listen: (listener) => void worker.removeAllListeners('message').on('message', listener),
      stop: () => void worker.terminate(),
      release: () => this.#keep(kept),
    };
  }

  #begin(): Kept {
    const worker = new Worker(this.#script, {
      resourceLimits: { maxYoungGenerationSizeMb: 4 },
      trackUnmanagedFds: false,
      // Flags for the main script are none of its business.
      execArgv: [],
    });
    let failure: Error | undefined;
    worker.once('error', (error: Error) => (failure = error));
    const kept: Kept = { worker, ended: () => undefined };
    worker.once('exit', () => {
      this.#forget(kept);
      kept.ended(failure);
    });
    return kept;
  }

  #keep(kept: Kept): void {
    kept.worker.removeAllListeners('message');
    kept.ended = () => undefined;
    kept.worker.unref();
    if (this.#idle.length >= this.#maxIdle) return void kept.worker.terminate();
    this.#idle.push(kept);
    kept.timer = setTimeout(() => {
      this.#forget(kept);
      void kept.worker.terminate();
    }, IDLE_MS).unref();
  }

  #forget(kept: Kept): void {
    clearTimeout(kept.timer);
    const at = this.#idle.indexOf(kept);
    if (at >= 0) this.#idle.splice(at, 1);
  }
}
