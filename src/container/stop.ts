import { setTimeout as sleep } from 'node:timers/promises';
import { anySignal } from '../base/any-signal.ts';
import { ClassifiedError } from '../base/errors.ts';
import type { Op } from '../base/op.ts';
import { throwIfOver } from '../base/op.ts';
import type { ContainerDeps } from './deps.ts';
import { exited, unseenExit } from './exit.ts';
import { findContainer } from './list.ts';
import type { ContainerRecord } from './record.ts';
import { cleanupOp, endProcesses } from './teardown.ts';

const SIGKILL = 9;
/** How long a killed process may take to be gone before its monitor is ended too (R5). */
const KILL_PATIENCE_MS = 10_000;

/**
 * CRI StopContainer: the stop signal, if no call has sent it yet, `gracePeriodMs` for it to work, then SIGKILL to all of it. Holds no lock while it waits, so a second
 * call with a shorter grace period takes effect at once (R12). Idempotent; a container that is gone is no error.
 */
export async function stopContainer(deps: ContainerDeps, op: Op, id: string, gracePeriodMs: number): Promise<void> {
  const record = visible(deps, id);
  if (record === undefined || record.state === 'exited' || record.state === 'removing') return;
  const runtime = deps.handlerOf(record.runtimeHandler);
  const gone = deps.exits.get(record.id);
  if (record.process === undefined || gone === undefined) {
    await endProcesses(deps, op, record);
    await exited(deps, record.id, unseenExit('its processes were ended without having been watched'));
    return;
  }
  if (gracePeriodMs > 0 && record.state === 'running') {
    op.span.stage('grace period');
    await signalOnce(gone, () => runtime.kill(op, record.id, record.stopSignal, false));
    if (await settles(op, gone, gracePeriodMs)) return;
  }
  op.span.stage('kill');
  await runtime.kill(op, record.id, SIGKILL, true);
  if (await settles(op, gone, KILL_PATIENCE_MS)) return;
  await endProcesses(deps, cleanupOp(deps, 'escalate'), record);
  if (await settles(op, gone, KILL_PATIENCE_MS)) return;
  throw new ClassifiedError(
    'deadlineExceeded',
    `stop container ${record.id}: init (pid ${record.process.init.pid}) does not end after SIGKILL`,
  );
}

/** By the promise of their exit: containers that got their stop signal. To many programs a second one means to end at once; containerd sends one too. */
const signalled = new WeakSet<Promise<void>>();

async function signalOnce(gone: Promise<void>, signal: () => Promise<void>): Promise<void> {
  if (signalled.has(gone)) return;
  signalled.add(gone);
  try {
    await signal();
  } catch (error) {
    signalled.delete(gone);
    throw error;
  }
}

function visible(deps: ContainerDeps, id: string): ContainerRecord | undefined {
  try {
    return findContainer(deps, id);
  } catch (error) {
    if (error instanceof ClassifiedError && error.kind === 'notFound') return undefined;
    throw error;
  }
}

async function settles(op: Op, promise: Promise<void>, timeoutMs: number): Promise<boolean> {
  const stopped = new AbortController();
  try {
    const signal = anySignal([op.signal, stopped.signal]);
    const late = sleep(timeoutMs, false, { signal }).catch(() => false);
    const done = await Promise.race([promise.then(() => true), late]);
    if (!done) throwIfOver(op);
    return done;
  } finally {
    stopped.abort();
  }
}
