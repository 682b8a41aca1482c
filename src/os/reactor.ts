import { closeSync, writeSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { Worker } from 'node:worker_threads';
import { errnoOf } from '../base/errors.ts';
import type { ExitStatus, ProcessRef } from './process.ts';
import { processRef } from './process.ts';
import { becomeSubreaper, epollAdd, epollCreate, epollRemove, eventfd, pidfdOpen, READABLE, WRITABLE } from './syscalls.ts';

interface Collected extends ProcessRef, ExitStatus {}

/** What the worker tells: ended children that it collected, and tokens of descriptors that are ready. */
export interface ReactorMessage {
  readonly collected: readonly Collected[];
  readonly ready: readonly number[];
}

interface Claim {
  readonly exited: Promise<ExitStatus>;
  readonly settle: (status: ExitStatus) => void;
}

/** Exits of children that `spawn` did not start: orphans that we adopted. Bounded; the oldest go first. */
const MAX_ORPHANS = 1024;
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
const watches = new Map<number, () => void>();
/** By pid and start time; a child that had ended before we could ask has only the pid. */
const claims = new Map<string, Claim>();
const keyOf = (pid: number, startTime = ''): string => `${pid} ${startTime}`;
const orphans = new Map<number, Collected>();
/** Ends that are waited for, of processes without a claim. Who gives up waiting for one that can't die comes back, again and again (R5): one descriptor serves them all. */
const ends = new Map<string, Promise<ExitStatus | undefined>>();

/**
 * Starts the one thread that waits for processes: this process becomes a subreaper and every ended child, ours or an orphan, is collected
 * there (children of node:child_process too, whose exit is then never told). Idempotent; `spawn` and `watchProcess` start it when need be.
 * While nothing is watched it keeps no program from ending.
 */
export async function startReactor(): Promise<void> {
  started();
}

/** Before a spawn, so that no exit can be missed. */
export const ensureReactor = (): void => void started();

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
    execArgv: [],
  });
  // No listener for its errors: without it nothing is known of any process, so one ends the daemon, and the next start recovers.
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
  watches.clear();
  claims.clear();
  ends.clear();
  closeSync(epfd);
  closeSync(wakeFd);
}

function onMessage({ collected, ready }: ReactorMessage): void {
  for (const child of collected) deliver(child);
  for (const token of ready) watches.get(token)?.();
  refer();
}

function deliver(child: Collected): void {
  const { pid, startTime, ...status } = child;
  for (const key of [keyOf(pid, startTime), keyOf(pid)]) {
    const claim = claims.get(key);
    if (!claim) continue;
    claims.delete(key);
    claim.settle(status);
    return;
  }
  orphans.delete(pid);
  orphans.set(pid, child);
  const oldest = orphans.keys().next().value;
  if (orphans.size > MAX_ORPHANS && oldest !== undefined) orphans.delete(oldest);
}

function refer(): void {
  if (watches.size > 0 || claims.size > 0) reactor?.worker.ref();
  else reactor?.worker.unref();
}

/**
 * Calls back once when `fd` is readable (or writable, or has an error), unless the result is called before. The descriptor stays the caller's and can be watched
 * for one thing at a time.
 */
export function watchFd(fd: number, onReady: () => void, what: 'readable' | 'writable' = 'readable'): () => void {
  const { epfd } = started();
  const token = nextToken++;
  const remove = (): void => {
    if (watches.delete(token)) epollRemove(epfd, fd);
    refer();
  };
  epollAdd(epfd, fd, token, what === 'readable' ? READABLE : WRITABLE);
  watches.set(token, () => {
    remove();
    onReady();
  });
  refer();
  return remove;
}

/**
 * For `spawn`, in the tick of the spawn, so that what was collected in between is still on its way here. Owns `pidfd` and closes it when the child
 * has ended; without one it had ended before it could be opened.
 */
export function claimChild(
  ref: { pid: number; startTime: string | undefined },
  pidfd: number | undefined,
): { exited: Promise<ExitStatus>; isOver: () => boolean } {
  const { promise: exited, resolve } = Promise.withResolvers<ExitStatus>();
  let over = false;
  // The pidfd only wakes the worker at once; the status comes by waitid.
  const unwatch = pidfd === undefined ? undefined : watchFd(pidfd, () => undefined);
  const settle = (status: ExitStatus): void => {
    over = true;
    unwatch?.();
    if (pidfd !== undefined) closeSync(pidfd);
    resolve(status);
  };
  claims.set(keyOf(ref.pid, ref.startTime), { exited, settle });
  refer();
  return { exited, isOver: () => over };
}

/**
 * Resolves when the process is gone (at once when it is already, or is another process by now). The status is known only of children of `spawn` and of
 * orphans that we adopted and collected not long ago; undefined otherwise. `startTime` "" asks for the last orphan with that pid.
 */
export async function watchProcess(ref: ProcessRef): Promise<ExitStatus | undefined> {
  started();
  const claim = ref.startTime === '' ? undefined : claims.get(keyOf(ref.pid, ref.startTime));
  if (claim) return claim.exited;
  if (ref.startTime === '') return watchEnd(ref);
  const key = keyOf(ref.pid, ref.startTime);
  const known = ends.get(key);
  if (known) return known;
  const end = watchEnd(ref).finally(() => {
    if (ends.get(key) === end) ends.delete(key);
  });
  ends.set(key, end);
  return end;
}

async function watchEnd(ref: ProcessRef): Promise<ExitStatus | undefined> {
  let pidfd: number;
  try {
    pidfd = pidfdOpen(ref.pid);
  } catch (error) {
    if (errnoOf(error) !== 'ESRCH') throw error;
    return lateStatus(ref);
  }
  try {
    if (processRef(ref.pid)?.startTime !== ref.startTime) return orphanStatus(ref);
    await new Promise<void>((resolve) => watchFd(pidfd, resolve));
  } finally {
    closeSync(pidfd);
  }
  return lateStatus(ref);
}

function orphanStatus(ref: ProcessRef): ExitStatus | undefined {
  const found = orphans.get(ref.pid);
  if (found === undefined || (ref.startTime !== '' && found.startTime !== ref.startTime)) return undefined;
  return { exitCode: found.exitCode, signal: found.signal, exitedAtNs: found.exitedAtNs };
}

// A zombie is either collected by its own parent, and then we never learn how it ended, or handed to us when that parent ends.
async function lateStatus(ref: ProcessRef): Promise<ExitStatus | undefined> {
  for (let waitedMs = 0; waitedMs < ADOPTION_PATIENCE_MS && processRef(ref.pid)?.startTime === ref.startTime; waitedMs += 5) {
    await sleep(5);
  }
  // What the worker collected is told in order: one turn later it is here.
  await sleep(0);
  return orphanStatus(ref);
}
