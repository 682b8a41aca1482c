import { closeSync, readdirSync, readFileSync } from 'node:fs';
import { errnoOf } from '../base/errors.ts';
import { pidfdOpen, pidfdSendSignal } from './syscalls.ts';

/** A process's identity: pids are recycled, (pid, start time) is not. `startTime` is field 22 of /proc/PID/stat, clock ticks since boot. */
export interface ProcessRef {
  readonly pid: number;
  readonly startTime: string;
}

/** How a process ended. */
export interface ExitStatus {
  /** 0-255; 128 + signal when a signal ended it (the convention of shells and of the CRI). */
  readonly exitCode: number;
  readonly signal: number;
  readonly exitedAtNs: bigint;
}

interface Stat {
  readonly state: string;
  readonly ppid: number;
  readonly session: number;
  readonly startTime: string;
}

function statOf(pid: number): Stat | undefined {
  try {
    const text = readFileSync(`/proc/${pid}/stat`, 'latin1');
    // The command in parentheses may hold anything, parentheses and blanks too.
    const fields = text.slice(text.lastIndexOf(')') + 2).split(' ');
    return { state: fields[0] ?? 'X', ppid: Number(fields[1]), session: Number(fields[3]), startTime: fields[19] ?? '' };
  } catch {
    return undefined;
  }
}

/** undefined when there is no such process; a zombie has an identity too. */
export function processRef(pid: number): ProcessRef | undefined {
  const stat = statOf(pid);
  return stat ? { pid, startTime: stat.startTime } : undefined;
}

/** A zombie is dead. */
export function isAlive(ref: ProcessRef): boolean {
  const stat = statOf(ref.pid);
  return stat !== undefined && stat.startTime === ref.startTime && stat.state !== 'Z' && stat.state !== 'X';
}

/** Through a pidfd whose process was checked: never hits a recycled pid. false when it is gone. */
export function signal(ref: ProcessRef, number: number): boolean {
  let pidfd: number;
  try {
    pidfd = pidfdOpen(ref.pid);
  } catch (error) {
    // EINVAL: no pid at all.
    if (errnoOf(error) === 'ESRCH' || errnoOf(error) === 'EINVAL') return false;
    throw error;
  }
  try {
    if (statOf(ref.pid)?.startTime !== ref.startTime) return false;
    pidfdSendSignal(pidfd, number);
    return true;
  } catch (error) {
    if (errnoOf(error) === 'ESRCH') return false;
    throw error;
  } finally {
    closeSync(pidfd);
  }
}

/** Empty for kernel threads, zombies, what is gone and what is just in its exec. */
export function argvOf(pid: number): string[] {
  try {
    const text = readFileSync(`/proc/${pid}/cmdline`, 'utf8');
    return text === '' ? [] : text.replace(/\0$/, '').split('\0');
  } catch {
    return [];
  }
}

function pids(): number[] {
  return readdirSync('/proc').flatMap((name) => (/^\d+$/.test(name) ? [Number(name)] : []));
}

/** Processes with an argument that contains `needle`, ourselves excepted. */
export function findByArgv(needle: string): ProcessRef[] {
  const others = pids().filter((pid) => pid !== process.pid);
  const argvs = others.map((pid) => [pid, argvOf(pid)] as const);
  // In the middle of its exec a process has no arguments for a moment: it is looked at again.
  const again = argvs.flatMap(([pid, argv]) => (argv.length === 0 ? [[pid, argvOf(pid)] as const] : []));
  return [...argvs, ...again].flatMap(([pid, argv]) => (argv.some((argument) => argument.includes(needle)) ? (processRef(pid) ?? []) : []));
}

/** Processes that began with `assignment` (`NAME=value`) in their environment, ourselves excepted. */
export function findByEnv(assignment: string): ProcessRef[] {
  return pids().flatMap((pid) => (pid !== process.pid && environmentOf(pid).includes(assignment) ? (processRef(pid) ?? []) : []));
}

function environmentOf(pid: number): string[] {
  try {
    return readFileSync(`/proc/${pid}/environ`, 'utf8').split('\0');
  } catch {
    return [];
  }
}

/** Children, their children and so on, by parent pid. What was orphaned meanwhile is not among them. */
export function descendantsOf(pid: number): ProcessRef[] {
  const children = new Map<number, ProcessRef[]>();
  for (const each of pids()) {
    const stat = statOf(each);
    if (stat === undefined) continue;
    const siblings = children.get(stat.ppid) ?? [];
    siblings.push({ pid: each, startTime: stat.startTime });
    children.set(stat.ppid, siblings);
  }
  const found: ProcessRef[] = [];
  for (const queue = [pid]; queue.length > 0;) {
    for (const child of children.get(queue.pop() ?? 0) ?? []) {
      found.push(child);
      queue.push(child.pid);
    }
  }
  return found;
}
