import { setTimeout as sleep } from 'node:timers/promises';
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
  void deps.exits.get(record.id)?.then(async () => {
    await sleep(DRAIN_MS, undefined, { ref: false });
    late.abort();
  });
  op.log.info({ container: record.id }, 'attach');
  const limited = { ...op, signal: AbortSignal.any([op.signal, late.signal]) };
  try {
    await deps.handler(record.runtimeHandler).attach(limited, record.id, { io: { tty, stdin, stdinOnce }, streams });
  } catch (error) {
    if (!late.signal.aborted || op.signal.aborted) throw error;
  }
}
