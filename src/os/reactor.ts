import { closeSync, writeSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { Worker } from 'node:worker_threads';
import { errnoOf } from '../base/errors.ts';
import { nowNs } from '../base/ids.ts';
import type { NamespacesJob, NamespacesResult } from './namespace-jobs.ts';
import type { ExitStatus, ProcessRef } from './process.ts';
import { processRef } from './process.ts';
import {
  becomeSubreaper,
  collectChild,
  endedChild,
  epollAdd,
  epollCreate,
  epollRemove,
  eventfd,
  ONCE,
  pidfdOpen,
  READABLE,
  WRITABLE,
} from './syscalls.ts';

interface Collected extends ProcessRef, ExitStatus {}

/** What the thread is given: the descriptors that it waits for, the one of them that wakes it (its token is 0), and whether to end then (not 0). */
export interface ReactorThread {
  readonly epfd: number;
  readonly wakeFd: number;
  readonly stop: Int32Array;
}

/** What it tells: tokens of descriptors that are ready, or that a job is done. */
export type ReactorMessage = { readonly ready: readonly number[] } | { readonly result: NamespacesResult };

interface Claim {
  readonly exited: Promise<ExitStatus>;
  readonly settle: (status: ExitStatus) => void;
}

interface Job {
  readonly resolve: (result: NamespacesResult) => void;
  readonly reject: (error: Error) => void;
}

/** Exits of children that `spawn` did not start: orphans that we adopted. Bounded; the oldest go first. */
const MAX_ORPHANS = 1024;
/** How long an orphan-to-be may lie about as its parent's zombie before we take its status for unknown. */
const ADOPTION_PATIENCE_MS = 1000;
/** Children are looked for this often without a signal too: whoever started this process may have blocked it. */
const SWEEP_MS = 1000;
/** The kernel may keep a job for long, or for ever: after this the ends of processes are waited for by another thread. */
const STUCK_MS = 1000;

interface Running {
  readonly thread: ReactorThread;
  readonly worker: Worker;
}

interface Reactor extends Pick<ReactorThread, 'epfd' | 'wakeFd'> {
  readonly sweep: NodeJS.Timeout;
  running: Running;
  /** Waits for descriptors while `running` is kept by a job. */
  standIn: Running | undefined;
}

let reactor: Reactor | undefined;
/** 0 is `wakeFd`. */
let nextToken = 1;
const watches = new Map<number, () => void>();
const claims = new Map<string, Claim>();
const keyOf = ({ pid, startTime }: ProcessRef): string => `${pid} ${startTime}`;
const orphans = new Map<number, Collected>();
/** Ends that are waited for, of processes without a claim. Who gives up waiting for one that can't die comes back, again and again (R5): one descriptor serves them all. */
const ends = new Map<string, Promise<ExitStatus | undefined>>();
const jobs = new Map<number, Job>();

/**
 * From now on this process is a subreaper that collects every ended child, ours or an orphan, when SIGCHLD comes (those of node:child_process are left to it), and
 * has one thread for what blocks: it waits for descriptors that libuv can't wait for, and does os/namespace-jobs. Idempotent;
 * `spawn`, `watchProcess` and the like start it when need be. While nothing is waited for it keeps no program from ending.
 */
export async function startReactor(): Promise<void> {
  started();
}

/** Before a spawn, so that no exit can be missed. */
export const ensureReactor = (): void => void started();

function started(): Reactor {
  if (reactor) return reactor;
  becomeSubreaper();
  process.on('SIGCHLD', collectSoon);
  process.on('exit', endThreads);
  const fds = { epfd: epollCreate(), wakeFd: eventfd() };
  epollAdd(fds.epfd, fds.wakeFd, 0);
  reactor = { ...fds, running: begin(fds, replace), standIn: undefined, sweep: setInterval(collectSoon, SWEEP_MS).unref() };
  return reactor;
}

function begin({ epfd, wakeFd }: Pick<ReactorThread, 'epfd' | 'wakeFd'>, onEnd: (ended: Running) => void): Running {
  const thread = { epfd, wakeFd, stop: new Int32Array(new SharedArrayBuffer(4)) };
  const extension = import.meta.url.endsWith('.ts') ? 'ts' : 'js';
  const worker = new Worker(new URL(`./reactor-worker.${extension}`, import.meta.url), {
    workerData: thread,
    resourceLimits: { maxYoungGenerationSizeMb: 2 },
    trackUnmanagedFds: false,
    execArgv: [],
  });
  const running = { thread, worker };
  // No listener for its errors: without it nothing is known of a container's end, so one ends the daemon, and the next start recovers.
  worker.on('message', onMessage);
  worker.on('exit', () => onEnd(running));
  worker.unref();
  return running;
}

/** It could not go back to its own namespaces. Descriptors that got ready meanwhile are told by the next one. */
function replace({ thread, worker }: Running): void {
  if (reactor?.running.worker !== worker || Atomics.load(thread.stop, 0) !== 0) return;
  reactor.running = begin(reactor, replace);
  rejectJobs();
  refer();
}

function standIn(): void {
  if (!reactor || reactor.standIn) return;
  reactor.standIn = begin(reactor, () => {
    if (!reactor) return;
    reactor.standIn = undefined;
    // It may have been woken in the other's place.
    wake(reactor);
    if (jobs.size > 0) standIn();
  });
  refer();
}

function wake({ wakeFd }: Pick<ReactorThread, 'wakeFd'>): void {
  const one = Buffer.alloc(8);
  one.writeBigUInt64LE(1n);
  writeSync(wakeFd, one);
}

function stop({ thread }: Running): void {
  Atomics.store(thread.stop, 0, 1);
  wake(thread);
}

// A thread inside a blocking call holds up process.exit and an uncaught exception alike.
function endThreads(): void {
  for (const each of [reactor?.running, reactor?.standIn]) if (each) stop(each);
}

/** Ends the thread. What is still watched never resolves, and a job that is kept by the kernel keeps this. */
export async function stopReactor(): Promise<void> {
  if (!reactor) return;
  const { running, standIn: second, epfd, wakeFd, sweep } = reactor;
  const workers = [running.worker, ...(second ? [second.worker] : [])];
  const ended = workers.map((worker) => new Promise((resolve) => worker.once('exit', resolve)));
  endThreads();
  process.off('exit', endThreads);
  process.off('SIGCHLD', collectSoon);
  clearInterval(sweep);
  for (const worker of workers) worker.ref();
  await Promise.all(ended);
  reactor = undefined;
  watches.clear();
  claims.clear();
  ends.clear();
  rejectJobs();
  closeSync(epfd);
  closeSync(wakeFd);
}

function rejectJobs(): void {
  for (const job of jobs.values()) job.reject(new Error('the thread for namespaces ended'));
  jobs.clear();
}

/** Has os/namespace-jobs do `job` in the thread; what fails there is told in the result. */
export function askThread(job: NamespacesJob): Promise<NamespacesResult> {
  const { promise, resolve, reject } = Promise.withResolvers<NamespacesResult>();
  const { running } = started();
  const late = setTimeout(standIn, STUCK_MS).unref();
  jobs.set(job.id, { resolve, reject });
  refer();
  running.worker.postMessage(job);
  wake(running.thread);
  return promise.finally(() => clearTimeout(late));
}

function onMessage(message: ReactorMessage): void {
  if ('ready' in message) {
    for (const token of message.ready) watches.get(token)?.();
  } else {
    jobs.get(message.result.id)?.resolve(message.result);
    jobs.delete(message.result.id);
    if (jobs.size === 0 && reactor?.standIn) stop(reactor.standIn);
  }
  refer();
}

let isCollecting = false;

// libuv collects what node:child_process started when the signal comes: it is let go first.
function collectSoon(): void {
  if (isCollecting) return;
  isCollecting = true;
  setImmediate(() => {
    isCollecting = false;
    for (let pid = endedChild(); pid !== undefined; pid = endedChild()) collect(pid);
  });
}

// A zombie still has its start time, and with it the pid tells whose exit this is after the number has been given to somebody else.
function collect(pid: number): void {
  const startTime = processRef(pid)?.startTime ?? '';
  const status = collectChild(pid);
  if (status) deliver({ pid, startTime, ...status, exitedAtNs: nowNs() });
}

function deliver(child: Collected): void {
  const claim = claims.get(keyOf(child));
  if (claim) {
    claims.delete(keyOf(child));
    refer();
    return claim.settle(statusOf(child));
  }
  orphans.delete(child.pid);
  orphans.set(child.pid, child);
  const oldest = orphans.keys().next().value;
  if (orphans.size > MAX_ORPHANS && oldest !== undefined) orphans.delete(oldest);
}

const statusOf = ({ exitCode, signal, exitedAtNs }: Collected): ExitStatus => ({ exitCode, signal, exitedAtNs });

function refer(): void {
  const isNeeded = watches.size > 0 || claims.size > 0 || jobs.size > 0;
  for (const each of [reactor?.running, reactor?.standIn]) if (each) each.worker[isNeeded ? 'ref' : 'unref']();
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
  epollAdd(epfd, fd, token, ONCE | (what === 'readable' ? READABLE : WRITABLE));
  watches.set(token, () => {
    remove();
    onReady();
  });
  refer();
  return remove;
}

/** For `spawn`, in the tick of the spawn: children are collected between ticks. Owns `pidfd` and closes it when the child has ended. */
export function claimChild(ref: ProcessRef, pidfd: number): { exited: Promise<ExitStatus>; isOver: () => boolean } {
  const { promise: exited, resolve } = Promise.withResolvers<ExitStatus>();
  let over = false;
  const settle = (status: ExitStatus): void => {
    over = true;
    closeSync(pidfd);
    resolve(status);
  };
  claims.set(keyOf(ref), { exited, settle });
  refer();
  return { exited, isOver: () => over };
}

/**
 * Resolves when the process is gone (at once when it is already, or is another process by now). The status is known only of children of `spawn` and of
 * orphans that we adopted and collected not long ago; undefined otherwise. `startTime` "" asks for the last orphan with that pid.
 */
export async function watchProcess(ref: ProcessRef): Promise<ExitStatus | undefined> {
  started();
  if (ref.startTime === '') return watchEnd(ref);
  const key = keyOf(ref);
  const claim = claims.get(key);
  if (claim) return claim.exited;
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
  return statusOf(found);
}

// A zombie is either collected by its own parent, and then we never learn how it ended, or handed to us when that parent ends.
async function lateStatus(ref: ProcessRef): Promise<ExitStatus | undefined> {
  for (let waitedMs = 0; waitedMs < ADOPTION_PATIENCE_MS && processRef(ref.pid)?.startTime === ref.startTime; waitedMs += 5) {
    // Its signal may still be on its way here.
    collect(ref.pid);
    if (!orphanStatus(ref)) await sleep(5);
  }
  return orphanStatus(ref);
}
