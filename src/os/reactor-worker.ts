import { parentPort, workerData } from 'node:worker_threads';
import { nowNs } from '../base/ids.ts';
import { processRef } from './process.ts';
import type { ReactorMessage } from './reactor.ts';
import { collectChild, endedChild, epollWait } from './syscalls.ts';

/** Orphans that we adopt announce themselves through no descriptor: they are collected at the latest after this. */
const TICK_MS = 100;

const { epfd, stop } = workerData as { epfd: number; stop: Int32Array };

// A zombie still has its start time, and with it the pid tells whose exit this is after the number has been given to somebody else.
function collected(): ReactorMessage['collected'] {
  const found: Array<ReactorMessage['collected'][number]> = [];
  for (let pid = endedChild(); pid !== undefined; pid = endedChild()) {
    const startTime = processRef(pid)?.startTime ?? '';
    const status = collectChild(pid);
    if (status) found.push({ pid, startTime, ...status, exitedAtNs: nowNs() });
  }
  return found;
}

const seen = new Set<number>();
while (Atomics.load(stop, 0) === 0) {
  const tokens = epollWait(epfd, TICK_MS).filter((token) => token !== 0);
  const children = collected();
  const ready = tokens.filter((token) => !seen.has(token));
  if (children.length === 0 && ready.length === 0) {
    // Told already, and the main thread has not removed them yet: don't spin.
    if (tokens.length > 0) Atomics.wait(stop, 0, 0, 2);
    continue;
  }
  seen.clear();
  for (const token of tokens) seen.add(token);
  parentPort?.postMessage({ collected: children, ready } satisfies ReactorMessage);
}
