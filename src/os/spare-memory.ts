import { mallocTrim } from './syscalls.ts';

const LOOK_MS = 500;
/** CPU of this process, all threads, between two looks; a pod that starts takes more. */
const IDLE_CPU_US = 15_000;
/** Some of them may be a pod that waits for a plugin, or for the next request of a client that is not done: the pause would be in its way. */
const IDLE_LOOKS = 6;
/** What makes a collection worth its pause: the process has grown by this since the last, or worked for so long. */
const WORTH_BYTES = 4 << 20;
const WORTH_CPU_US = 500_000;

/**
 * Gives back memory that a burst of work left behind, as soon as the process has been idle for about three seconds: garbage that V8 would keep for the next burst, and
 * what malloc holds in its arena. The heap is as small as it can be then (30 to 40 MiB less after 50 pods), for a pause of 40 to 80 ms.
 * Needs `--expose-gc`, which the launcher gives; without it only malloc's part is given back. Keeps no program from ending.
 */
export function returnSpareMemory(): Disposable {
  let idleLooks = 0;
  let settledBytes = 0;
  let workedUs = 0;
  let cpu = process.cpuUsage();
  const look = (): void => {
    const { user, system } = process.cpuUsage(cpu);
    cpu = process.cpuUsage();
    workedUs += user + system;
    idleLooks = user + system < IDLE_CPU_US ? idleLooks + 1 : 0;
    if (idleLooks < IDLE_LOOKS) return;
    if (workedUs < WORTH_CPU_US && process.memoryUsage.rss() < settledBytes + WORTH_BYTES) return;
    globalThis.gc?.({ type: 'major', flavor: 'last-resort', execution: 'sync' });
    mallocTrim();
    settledBytes = process.memoryUsage.rss();
    workedUs = 0;
    cpu = process.cpuUsage();
  };
  const timer = setInterval(look, LOOK_MS).unref();
  return { [Symbol.dispose]: () => clearInterval(timer) };
}
