import { readFile, stat } from 'node:fs/promises';
import { newOp } from '../base/op.ts';
import { run } from '../os/spawn.ts';

export interface InterfaceCounters {
  readonly name: string;
  readonly rxBytes: number;
  readonly rxErrors: number;
  readonly txBytes: number;
  readonly txErrors: number;
}

/** /proc/net/dev (proc(5)), `lo` left out. */
export function parseNetDev(text: string): InterfaceCounters[] {
  return text.split('\n').flatMap((line) => {
    const match = /^\s*([^:]+):(.*)$/.exec(line);
    const name = match?.[1]?.trim() ?? 'lo';
    if (name === 'lo') return [];
    const [rxBytes = 0, , rxErrors = 0, , , , , , txBytes = 0, , txErrors = 0] = (match?.[2] ?? '').trim().split(/\s+/).map(Number);
    return [{ name, rxBytes, rxErrors, txBytes, txErrors }];
  });
}

const TIMEOUT_MS = 2_000;
const FRESH_MS = 1_000;

/** Readings of the last second, by namespace: bounded by what can be asked in one. */
const readings = new Map<string, Promise<InterfaceCounters[]>>();

/**
 * The counters of a pod's interfaces, `netnsPath` being its pinned namespace: through one of its processes, or where it has none through a process that
 * enters the namespace. Read at most once a second. Empty when neither answers.
 */
export function podNetwork(netnsPath: string, pid: number | undefined): Promise<InterfaceCounters[]> {
  const recent = readings.get(netnsPath);
  if (recent) return recent;
  const reading = countersOf(netnsPath, pid);
  readings.set(netnsPath, reading);
  setTimeout(() => readings.delete(netnsPath), FRESH_MS).unref();
  return reading;
}

async function countersOf(netnsPath: string, pid: number | undefined): Promise<InterfaceCounters[]> {
  const text = pid === undefined ? undefined : await throughProcess(netnsPath, pid);
  if (text !== undefined) return parseNetDev(text);
  const op = newOp('read counters', { timeoutMs: TIMEOUT_MS });
  const read = await run(op, { argv: ['nsenter', `--net=${netnsPath}`, 'cat', '/proc/net/dev'] }).catch(() => undefined);
  return read?.exitCode === 0 ? parseNetDev(read.stdout.toString('utf8')) : [];
}

/** undefined when the process is gone, or its number is another's by now: then these would be the host's counters. */
async function throughProcess(netnsPath: string, pid: number): Promise<string | undefined> {
  try {
    const text = await readFile(`/proc/${pid}/net/dev`, 'utf8');
    const [pinned, of] = await Promise.all([stat(netnsPath), stat(`/proc/${pid}/ns/net`)]);
    return pinned.dev === of.dev && pinned.ino === of.ino ? text : undefined;
  } catch {
    return undefined;
  }
}
