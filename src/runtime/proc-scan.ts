import { readdirSync, readFileSync } from 'node:fs';
import { stat } from 'node:fs/promises';
import { findByArgv, isAlive } from '../os/process.ts';
import type { ProcessRef } from '../os/process.ts';

export interface ProcessFacts {
  readonly pid: number;
  readonly state: string;
  readonly parentPid: number;
  readonly sessionId: number;
  readonly startTime: string;
  /** As wait(2) encodes it; only a zombie has one. */
  readonly waitStatus: number;
}

/** /proc/PID/stat (proc_pid_stat(5)), undefined when the process is gone. The command's name may hold anything, so parsing starts after it. */
export function processFacts(pid: number): ProcessFacts | undefined {
  let text: string;
  try {
    text = readFileSync(`/proc/${pid}/stat`, 'latin1');
  } catch {
    return undefined;
  }
  const fields = text.slice(text.lastIndexOf(')') + 2).split(' ');
  return {
    pid,
    state: fields[0] ?? '?',
    parentPid: Number(fields[1]),
    sessionId: Number(fields[3]),
    startTime: fields[19] ?? '',
    waitStatus: Number(fields[49] ?? 0),
  };
}

/** The exit code a zombie holds for a parent that doesn't collect it; undefined for the living and the gone. */
export function zombieExit(ref: ProcessRef): { exitCode: number; signal: number } | undefined {
  const facts = processFacts(ref.pid);
  if (!facts || facts.startTime !== ref.startTime || facts.state !== 'Z') return undefined;
  const signal = facts.waitStatus & 0x7f;
  return signal > 0 ? { exitCode: 128 + signal, signal } : { exitCode: (facts.waitStatus >> 8) & 0xff, signal: 0 };
}

/** Gone, or a zombie: nothing of it runs. */
export const isOver = (ref: ProcessRef): boolean => !isAlive(ref);

/** Device and inode of what a process has open. */
export async function heldFiles(pid: number): Promise<Array<{ dev: bigint; ino: bigint }>> {
  let names: string[];
  try {
    names = readdirSync(`/proc/${pid}/fd`);
  } catch {
    return [];
  }
  const held = await Promise.all(names.map((name) => stat(`/proc/${pid}/fd/${name}`, { bigint: true }).catch(() => undefined)));
  return held.filter((found) => found !== undefined);
}

/**
 * Processes that run one of `executables` and have `id` as an argument: conmon and the runtime's verbs. A container's process may carry
 * any argv, so the file behind it decides, by device and inode: through /proc/PID/exe, whatever a mount namespace calls it.
 */
export async function processesOf(id: string, executables: readonly string[]): Promise<ProcessRef[]> {
  const ours = await Promise.all(executables.map((path) => stat(path).catch(() => undefined)));
  const found: ProcessRef[] = [];
  for (const ref of findByArgv(id)) {
    const exe = await stat(`/proc/${ref.pid}/exe`).catch(() => undefined);
    if (exe && ours.some((own) => own?.ino === exe.ino && own.dev === exe.dev)) found.push(ref);
  }
  return found;
}
