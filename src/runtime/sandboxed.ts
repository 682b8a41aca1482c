import type { Op } from '../base/op.ts';
import { run } from '../os/spawn.ts';
import { readPid } from './state-dir.ts';

interface Listed {
  readonly PID: number;
  readonly PPID: number;
}

function parseList(text: string): Listed[] {
  try {
    const list: unknown = JSON.parse(text);
    return Array.isArray(list) ? (list as Listed[]) : [];
  } catch {
    return [];
  }
}

/**
 * Kills a process and its descendants in a sandbox that has processes of its own (gVisor): by their pids inside, `kill --pid`.
 * What was orphaned there is init's child and is not found.
 */
export async function killSandboxed(op: Op, runtime: readonly string[], id: string, pidFile: string): Promise<void> {
  const root = await readPid(pidFile);
  if (root === undefined) return;
  const { stdout } = await run(op, { argv: [...runtime, 'ps', '--format', 'json', id] });
  const tree = new Set([root]);
  const listed = parseList(stdout.toString('utf8'));
  for (let size = 0; size !== tree.size;) {
    size = tree.size;
    for (const { PID, PPID } of listed) if (tree.has(PPID)) tree.add(PID);
  }
  for (const pid of tree) await run(op, { argv: [...runtime, 'kill', '--pid', String(pid), id, 'KILL'] });
}
