import { readFile, stat } from 'node:fs/promises';
import { newOp } from '../base/op.ts';
import { run } from '../os/spawn.ts';
import { Recent } from './recent.ts';

export interface InterfaceCounters {
  readonly name: string;
  readonly rxBytes: number;
  readonly rxPackets: number;
  readonly rxErrors: number;
  readonly rxDropped: number;
  readonly txBytes: number;
  readonly txPackets: number;
  readonly txErrors: number;
  readonly txDropped: number;
}

/** /proc/net/dev (proc(5)), `lo` left out. */
export function parseNetDev(text: string): InterfaceCounters[] {
  return text.split('\n').flatMap((line) => {
    const match = /^\s*([^:]+):(.*)$/.exec(line);
    const name = match?.[1]?.trim() ?? 'lo';
    if (name === 'lo') return [];
    const fields = (match?.[2] ?? '').trim().split(/\s+/).map(Number);
    const [rxBytes = 0, rxPackets = 0, rxErrors = 0, rxDropped = 0, , , , , txBytes = 0, txPackets = 0, txErrors = 0, txDropped = 0] =
      fields;
    return [{ name, rxBytes, rxPackets, rxErrors, rxDropped, txBytes, txPackets, txErrors, txDropped }];
  });
}

const TIMEOUT_MS = 2_000;

const readings = new Recent<InterfaceCounters[]>();

/**
 * The counters of a pod's interfaces, `netnsPath` being its pinned namespace: through one of its processes, or where it has none through a process that
 * enters the namespace. Read at most once a second. Empty when neither answers.
 */
export function podNetwork(netnsPath: string, pid: number | undefined): Promise<InterfaceCounters[]> {
  return readings.of(netnsPath, () => countersOf(netnsPath, pid));
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
