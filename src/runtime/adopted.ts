import { setTimeout as sleep } from 'node:timers/promises';
import { nowNs } from '../base/ids.ts';
import type { ProcessRef } from '../os/process.ts';
import { processRef } from '../os/process.ts';
import { watchProcess } from '../os/reactor.ts';
import type { ExitStatus } from '../os/spawn.ts';

/** The reactor may have collected a process a moment before its status arrives here. */
const STATUS_FOLLOWS_MS = 1000;
const UNKNOWN_EXIT = 255;

/**
 * The end of a process that a child of ours started and left to us (we are its subreaper). It may have ended, and been collected, before
 * this is asked: the reactor keeps such exits, and one from before `sinceNs` is of an earlier process with that pid.
 */
export function adoptedExit(pid: number, sinceNs: bigint): { ref: ProcessRef | undefined; exited: Promise<ExitStatus> } {
  const ref = processRef(pid);
  const exited = async (): Promise<ExitStatus> => {
    let status = await watchProcess(ref ?? { pid, startTime: '' });
    for (let waitedMs = 0; (!status || status.exitedAtNs < sinceNs) && waitedMs < STATUS_FOLLOWS_MS; waitedMs += 5) {
      await sleep(5);
      status = await watchProcess({ pid, startTime: '' });
    }
    return status ?? { exitCode: UNKNOWN_EXIT, signal: 0, exitedAtNs: nowNs() };
  };
  return { ref, exited: exited() };
}
