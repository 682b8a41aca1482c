import { anySignal } from './any-signal.ts';
import { ClassifiedError } from './errors.ts';
import type { Logger } from './log.ts';
import { silentLogger } from './log.ts';

/** To hundredths: stages are told to people too. */
const rounded = (ms: number): number => Math.round(ms * 100) / 100;

/** Where an operation is: the stage it works at and since when, so that a retry that times out can name it (R1). */
export class Span {
  readonly name: string;
  #stage = 'start';
  readonly #begunAt = performance.now();
  #stageSince = performance.now();
  readonly #done: Array<{ stage: string; durationMs: number }> = [];

  constructor(name: string) {
    this.name = name;
  }

  /** Ends the current stage and begins the next. */
  stage(name: string): void {
    const now = performance.now();
    this.#done.push({ stage: this.#stage, durationMs: rounded(now - this.#stageSince) });
    this.#stage = name;
    this.#stageSince = now;
  }

  get current(): { stage: string; ageMs: number } {
    return { stage: this.#stage, ageMs: Math.round(performance.now() - this.#stageSince) };
  }

  get ageMs(): number {
    return rounded(performance.now() - this.#begunAt);
  }

  /** With their durations, the running one last; empty when no stage was ever named. */
  get stages(): ReadonlyArray<{ stage: string; durationMs: number }> {
    if (this.#done.length === 0) return [];
    return [...this.#done, { stage: this.#stage, durationMs: rounded(performance.now() - this.#stageSince) }];
  }
}

/** 24.8 days: the longest that a timer of Node's can wait. Of more it makes one millisecond, or an error. */
export const MAX_TIMER_MS = 2 ** 31 - 1;

const timeoutSignal = (timeoutMs: number): AbortSignal => AbortSignal.timeout(Math.min(Math.max(1, timeoutMs), MAX_TIMER_MS));

/** First parameter of everything that waits. `deadlineMs` is epoch milliseconds, Infinity for none; `signal` fires at it too. */
export interface Op {
  readonly signal: AbortSignal;
  readonly log: Logger;
  readonly deadlineMs: number;
  readonly span: Span;
}

/** An operation of its own that no request owns: cleanup, recovery, background work. */
export function newOp(name: string, options: { log?: Logger; timeoutMs?: number; signal?: AbortSignal } = {}): Op {
  const { log = silentLogger, timeoutMs = Infinity, signal } = options;
  const signals = [signal, Number.isFinite(timeoutMs) ? timeoutSignal(timeoutMs) : undefined].filter((s) => s !== undefined);
  return {
    signal: signals.length === 1 && signals[0] !== undefined ? signals[0] : anySignal(signals),
    log,
    deadlineMs: Date.now() + timeoutMs,
    span: new Span(name),
  };
}

/** The same operation under a tighter deadline. */
export function within(op: Op, timeoutMs: number): Op {
  const deadlineMs = Math.min(op.deadlineMs, Date.now() + timeoutMs);
  return { ...op, deadlineMs, signal: anySignal([op.signal, timeoutSignal(timeoutMs)]) };
}

/** The same log and span, but neither the caller's cancellation nor its deadline: what cleanup runs under (R3). */
export function detached(op: Op, timeoutMs: number): Op {
  return { ...newOp(op.span.name, { log: op.log, timeoutMs }), span: op.span };
}

export function throwIfOver(op: Op): void {
  if (!op.signal.aborted) return;
  const { stage, ageMs } = op.span.current;
  // Timers and the wall clock round apart: a signal that a timeout fired may be read a millisecond before `deadlineMs`.
  const timedOut = (op.signal.reason as Error | undefined)?.name === 'TimeoutError' || Date.now() >= op.deadlineMs;
  const kind = timedOut ? 'deadlineExceeded' : 'cancelled';
  throw new ClassifiedError(
    kind,
    `${op.span.name} ${kind === 'cancelled' ? 'was cancelled' : 'ran out of time'} at stage ${stage} after ${ageMs} ms`,
  );
}

/** Waits for `promise` at most until the operation ends; the work behind it goes on. */
export async function orOver<T>(op: Op, promise: Promise<T>): Promise<T> {
  // Of an operation that is over already nobody else hears how the work ends, and a rejection that nobody hears ends the daemon.
  promise.catch(() => undefined);
  throwIfOver(op);
  const { promise: over, reject } = Promise.withResolvers<never>();
  const onAbort = (): void => {
    try {
      throwIfOver(op);
    } catch (error) {
      reject(error as Error);
    }
  };
  op.signal.addEventListener('abort', onAbort, { once: true });
  try {
    return await Promise.race([promise, over]);
  } finally {
    op.signal.removeEventListener('abort', onAbort);
  }
}
