import { setTimeout as sleep } from 'node:timers/promises';
import { anySignal } from '../base/any-signal.ts';
import type { Op } from '../base/op.ts';
import type { ProcessStreams } from '../runtime/runtime.ts';
import type { ContainerDeps } from './deps.ts';
import { runningContainer } from './running.ts';

/** What its monitor gets to pass on the last output once init has ended: a process that init left outside of its PID namespace may keep the streams open. */
const DRAIN_MS = 5000;

/** CRI Attach, once its client has come: resolves when init has ended and its output is written. When the op ends the client is detached, nothing else. */
export async function attach(deps: ContainerDeps, op: Op, id: string, streams: ProcessStreams): Promise<void> {
  const record = runningContainer(deps, id, 'attach to');
  const { tty, stdin, stdinOnce } = record.config;
  const late = new AbortController();
  using _ = lateAfter(deps.exits.get(record.id), late);
  op.log.info({ container: record.id }, 'attach');
  const limited = { ...op, signal: anySignal([op.signal, late.signal]) };
  try {
    await deps.handler(record.runtimeHandler).attach(limited, record.id, { io: { tty, stdin, stdinOnce }, streams });
  } catch (error) {
    if (!late.signal.aborted || op.signal.aborted) throw error;
  }
}

/** One reaction to an exit, however many attach meanwhile: what waits for a promise can't be taken back, and a container may run for years (S8). */
const drains = new WeakMap<Promise<void>, Set<AbortController>>();

/** Aborts `late` once the time to drain is over, unless the result is disposed of before. */
function lateAfter(exit: Promise<void> | undefined, late: AbortController): Disposable {
  const waiting = exit && (drains.get(exit) ?? drainAfter(exit));
  waiting?.add(late);
  return { [Symbol.dispose]: () => void waiting?.delete(late) };
}

function drainAfter(exit: Promise<void>): Set<AbortController> {
  const waiting = new Set<AbortController>();
  drains.set(exit, waiting);
  void exit.then(async () => {
    await sleep(DRAIN_MS, undefined, { ref: false });
    for (const late of waiting) late.abort();
  });
  return waiting;
}
