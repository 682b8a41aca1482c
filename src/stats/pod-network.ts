import { readFile } from 'node:fs/promises';
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

/** The counters of a pod's interfaces: through one of its processes, or where it has none through its pinned namespace. Empty when neither answers. */
export async function podNetwork(netnsPath: string, pid: number | undefined): Promise<InterfaceCounters[]> {
  const text = pid === undefined ? '' : await readFile(`/proc/${pid}/net/dev`, 'utf8').catch(() => '');
  if (text !== '') return parseNetDev(text);
  const read = await run(newOp('read counters', { timeoutMs: TIMEOUT_MS }), {
    argv: ['nsenter', `--net=${netnsPath}`, 'cat', '/proc/net/dev'],
  }).catch(() => undefined);
  return read?.exitCode === 0 ? parseNetDev(read.stdout.toString('utf8')) : [];
}
