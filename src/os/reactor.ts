import { closeSync, writeSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { Worker } from 'node:worker_threads';
import { errnoOf } from '../base/errors.ts';
import type { ProcessRef } from './process.ts';
import { processRef } from './process.ts';
import type { ExitStatus } from './spawn.ts';
import { becomeSubreaper, epollAdd, epollCreate, epollRemove, eventfd, pidfdOpen } from './syscalls.ts';

/** What the worker tells: ended children that it collected, and tokens of descriptors that are ready. */
export interface ReactorMessage {
  readonly collected: ReadonlyArray<{ pid: number; exitCode: number; signal: number; atNs: bigint }>;
  readonly ready: readonly number[];
}

interface Watch {
  readonly fd: number;
  readonly onReady: () => void;
}

/** Exits of children that nobody asked for yet: adopted orphans. Bounded; the oldest go first. */
const MAX_UNCLAIMED = 1024;
/** How long an orphan-to-be may lie about as its parent's zombie before we take its status for unknown. */
const ADOPTION_PATIENCE_MS = 1000;

interface Reactor {
  readonly worker: Worker;
  readonly epfd: number;
  readonly wakeFd: number;
  readonly stop: Int32Array;
}

let reactor: Reactor | undefined;
let nextToken = 1;
const watches = new Map<number, Watch>();
const waiting = new Map<number, (status: ExitStatus) => void>();
const unclaimed = new Map<number, ExitStatus>();

/**
 * Starts the one thread that waits for processes: this process becomes a subreaper and every ended child, ours or an orphan, is collected
 * there. Idempotent; `spawn` and `watchProcess` start it when need be. While nothing is watched it keeps no program from ending.
 */
export async function startReactor(): Promise<void> {
  started();
}

function started(): Reactor {
  if (reactor) return reactor;
  becomeSubreaper();
  const epfd = epollCreate();
  const wakeFd = eventfd();
  epollAdd(epfd, wakeFd, 0);
  const stop = new Int32Array(new SharedArrayBuffer(4));
  const extension = import.meta.url.endsWith('.ts') ? 'ts' : 'js';
  const worker = new Worker(new URL(`./reactor-worker.${extension}`, import.meta.url), {
    workerData: { epfd, stop },
    resourceLimits: { maxYoungGenerationSizeMb: 2 },
    trackUnmanagedFds: false,
  });
  worker.on('message', onMessage);
  worker.unref();
  reactor = { worker, epfd, wakeFd, stop };
  process.on('exit', wake);
  return reactor;
}

// A thread inside a blocking call holds up process.exit and an uncaught exception alike: it is woken and told to end.
function wake(): void {
  if (!reactor) return;
  Atomics.store(reactor.stop, 0, 1);
  const one = Buffer.alloc(8);
  one.writeBigUInt64LE(1n);
  writeSync(reactor.wakeFd, one);
}

/** Ends the thread. What is still watched never resolves. */
export async function stopReactor(): Promise<void> {
  if (!reactor) return;
  const { worker, epfd, wakeFd } = reactor;
  const ended = new Promise((resolve) => worker.once('exit', resolve));
  wake();
  process.off('exit', wake);
  worker.ref();
  await ended;
  reactor = undefined;
  closeSync(epfd);
  closeSync(wakeFd);
}

function onMessage({ collected, ready }: ReactorMessage): void {
  for (const { pid, exitCode, signal, atNs } of collected) {
    const status = { exitCode, signal, exitedAtNs: atNs };
    const claim = waiting.get(pid);
    if (claim) {
      waiting.delete(pid);
      claim(status);
    } else {
      unclaimed.set(pid, status);
      const oldest = unclaimed.keys().next().value;
      if (unclaimed.size > MAX_UNCLAIMED && oldest !== undefined) unclaimed.delete(oldest);
    }
  }
  for (const token of ready) watches.get(token)?.onReady();
  refer();
}

function refer(): void {
  if (watches.size > 0 || waiting.size > 0) reactor?.worker.ref();
  else reactor?.worker.unref();
}

/** Calls back once when `fd` is readable. The descriptor stays the caller's. */
function watchFd(fd: number, onReady: () => void): () => void {
  const { epfd } = started();
  const token = nextToken++;
  const remove = (): void => {
    if (watches.delete(token)) epollRemove(epfd, fd);
    refer();
  };
  watches.set(token, {
    fd,
    onReady: () => {
      remove();
      onReady();
    },
  });
  epollAdd(epfd, fd, token);
  refer();
  return remove;
}

/** For `spawn`, in the tick of the spawn: the child's exit, whenever it is collected. Owns `pidfd` and closes it after that; undefined: it has ended already. */
export function claimChild(pid: number, pidfd: number | undefined): { exited: Promise<ExitStatus>; isOver: () => boolean } {
  started();
  unclaimed.delete(pid);
  const { promise, resolve } = Promise.withResolvers<ExitStatus>();
  let over = false;
  // The pidfd only wakes the worker at once; the status comes by waitid.
  const unwatch = pidfd === undefined ? undefined : watchFd(pidfd, () => undefined);
  waiting.set(pid, (status) => {
    over = true;
    unwatch?.();
    if (pidfd !== undefined) closeSync(pidfd);
    resolve(status);
  });
  refer();
  return { exited: promise, isOver: () => over };
}

/** Before a spawn, so that no exit can be missed. */
export const ensureReactor = (): void => void started();

/**
 * Resolves when the process is gone (at once when it is already, or is another process by now). The status is known only of our own children and of orphans
 * that we adopted; undefined otherwise.
 */
export async function watchProcess(ref: ProcessRef): Promise<ExitStatus | undefined> {
  started();
  const known = unclaimed.get(ref.pid);
  let pidfd: number;
  try {
    pidfd = pidfdOpen(ref.pid);
  } catch (error) {
    if (errnoOf(error) !== 'ESRCH') throw error;
    unclaimed.delete(ref.pid);
    return known;
  }
  try {
    if (processRef(ref.pid)?.startTime !== ref.startTime) return undefined;
    unclaimed.delete(ref.pid);
    await new Promise<void>((resolve) => watchFd(pidfd, resolve));
  } finally {
    closeSync(pidfd);
  }
  const status = unclaimed.get(ref.pid);
  if (status) {
    unclaimed.delete(ref.pid);
    return status;
  }
  return waiting.has(ref.pid) ? undefined : lateStatus(ref);
}

// A zombie is either collected by its own parent, and then we never learn how it ended, or handed to us when that parent ends.
async function lateStatus(ref: ProcessRef): Promise<ExitStatus | undefined> {
  for (let waitedMs = 0; waitedMs < ADOPTION_PATIENCE_MS && processRef(ref.pid)?.startTime === ref.startTime; waitedMs += 5) {
    await sleep(5);
  }
  // What the worker collected is told in order: one turn later it is here.
  await sleep(0);
  const status = unclaimed.get(ref.pid);
  unclaimed.delete(ref.pid);
  return status;
}
