import type { Op } from '../base/op.ts';
import { run } from '../os/spawn.ts';
import { readPid } from './state-dir.ts';

/** pid -> parent's pid, out of the table of `runsc ps` (its JSON form has no parents). */
export function parseProcessTable(text: string): Map<number, number> {
  const [header = '', ...rows] = text.split('\n').filter((line) => line.trim() !== '');
  const names = header.trim().split(/\s+/);
  const [pidAt, parentAt] = [names.indexOf('PID'), names.indexOf('PPID')];
  if (pidAt < 0 || parentAt < 0) return new Map();
  return new Map(
    rows.map((row) => {
      const fields = row.trim().split(/\s+/);
      return [Number(fields[pidAt]), Number(fields[parentAt])];
    }),
  );
}

/** A look takes some 30 ms, and nearly always the first finds nothing. What nobody waits for inside is never gone. */
const MAX_LOOKS = 5;

/**
 * Kills a process and its descendants in a sandbox that has processes of its own (gVisor): by their pids inside, `kill --pid`.
 * What was orphaned there is init's child and is not found. Signals take a moment: they are waited for.
 */
export async function killSandboxed(op: Op, runtime: readonly string[], id: string, pidFile: string): Promise<void> {
  const root = readPid(pidFile);
  if (root === undefined) return;
  const send = (pid: number, signal: string) => run(op, { argv: [...runtime, 'kill', '--pid', String(pid), id, signal] });
  const look = async (): Promise<Map<number, number>> => {
    const { stdout } = await run(op, { argv: [...runtime, 'ps', id] });
    return parseProcessTable(stdout.toString('utf8'));
  };
  const stopped = new Set<number>();
  // What is stopped forks no more: a child that came between a look and the kill of its parent would be init's, and lost.
  for (let found = new Set([root]); found.size > stopped.size;) {
    for (const pid of found) if (!stopped.has(pid)) await send(pid, 'STOP');
    for (const pid of found) stopped.add(pid);
    found = treeOf(stopped, await look());
  }
  for (const pid of stopped) await send(pid, 'KILL');
  for (let looks = 0; looks < MAX_LOOKS; looks++) {
    const left = await look();
    if (![...stopped].some((pid) => left.has(pid))) return;
  }
}

/** `roots` and all their descendants. */
export function treeOf(roots: ReadonlySet<number>, parents: ReadonlyMap<number, number>): Set<number> {
  const tree = new Set(roots);
  for (let size = 0; size !== tree.size;) {
    size = tree.size;
    for (const [pid, parent] of parents) if (tree.has(parent)) tree.add(pid);
  }
  return tree;
}
