import { readlinkSync } from 'node:fs';
import { opendir, readFile } from 'node:fs/promises';
import { setImmediate as turn } from 'node:timers/promises';

/** What the processes of a container hold. */
export interface ProcUsage {
  readonly processes: number;
  readonly descriptors: number;
  readonly sockets: number;
}

/** A container decides how much there is to count: no more than this is looked at. */
const MAX_DESCRIPTORS = 20_000;
/** Links read before others get a turn: about half a millisecond. */
const BURST = 200;

/** Open descriptors of the processes, and how many of them are sockets; both stop at 20,000. Processes that end meanwhile don't count. */
export async function procUsage(pids: readonly number[], procDir = '/proc'): Promise<ProcUsage> {
  let [descriptors, sockets] = [0, 0];
  for (const pid of pids) {
    if (descriptors >= MAX_DESCRIPTORS) break;
    try {
      for await (const { name } of await opendir(`${procDir}/${pid}/fd`, { bufferSize: BURST })) {
        if (++descriptors >= MAX_DESCRIPTORS) break;
        if (isSocket(`${procDir}/${pid}/fd/${name}`)) sockets++;
        if (descriptors % BURST === 0) await turn();
      }
    } catch {
      // It is gone.
    }
  }
  return { processes: pids.length, descriptors, sockets };
}

function isSocket(link: string): boolean {
  try {
    return readlinkSync(link).startsWith('socket:');
  } catch {
    return false;
  }
}

/** Soft limit of open files of a process; undefined when it is gone or has none. */
export async function softNofileOf(pid: number, procDir = '/proc'): Promise<number | undefined> {
  const text = await readFile(`${procDir}/${pid}/limits`, 'utf8').catch(() => '');
  const soft = /^Max open files\s+(\d+)/m.exec(text)?.[1];
  return soft === undefined ? undefined : Number(soft);
}
