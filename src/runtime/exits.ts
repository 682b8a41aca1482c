import { stat } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { messageOf } from '../base/errors.ts';
import { nowNs } from '../base/ids.ts';
import type { Logger } from '../base/log.ts';
import { killCgroup, readOomKills } from '../os/cgroup.ts';
import { signal } from '../os/process.ts';
import { watchProcess } from '../os/reactor.ts';
import type { ExitStatus } from '../os/spawn.ts';
import { isOver, zombieExit } from './proc-scan.ts';
import type { CreatedContainer, RuntimeExit } from './runtime.ts';
import type { ContainerFiles } from './state-dir.ts';
import { readIfThere } from './state-dir.ts';

const SIGKILL = 9;
const SIGCONT = 18;
const KILLED = 128 + SIGKILL;
/** When nobody can say how init ended. */
const UNKNOWN_EXIT = 255;

export interface ExitContext {
  readonly id: string;
  readonly files: ContainerFiles;
  readonly cgroupPath: string | undefined;
  readonly created: CreatedContainer;
  readonly log: Logger;
  /** How long conmon may take to write the exit file once init is gone. */
  readonly exitFileTimeoutMs: number;
}

/** conmon writes 128 + signal, as shells do, so a process that exits with such a code by itself looks the same. */
const signalOf = (exitCode: number): number => (exitCode > 128 && exitCode <= 128 + 64 ? exitCode - 128 : 0);

export async function readExitFile(files: ContainerFiles): Promise<ExitStatus | undefined> {
  const text = readIfThere(files.exit);
  if (text === undefined) return undefined;
  const exitCode = Number.parseInt(text, 10);
  const { mtimeNs } = await stat(files.exit, { bigint: true });
  // conmon writes -1 when it lost init's status
  if (!Number.isInteger(exitCode) || exitCode < 0) return { exitCode: UNKNOWN_EXIT, signal: 0, exitedAtNs: mtimeNs };
  return { exitCode, signal: signalOf(exitCode), exitedAtNs: mtimeNs };
}

async function pollExitFile(context: ExitContext, timeoutMs: number): Promise<ExitStatus | undefined> {
  const untilMs = Date.now() + timeoutMs;
  for (let waitMs = 1; ; waitMs = Math.min(waitMs * 2, 100)) {
    // asked before the file is: conmon writes it and then goes
    const over = isOver(context.created.monitor);
    const found = await readExitFile(context.files);
    if (found || over || Date.now() >= untilMs) return found;
    await sleep(waitMs);
  }
}

/** Counter and exit code decide; conmon's file, which also marks an OOM of a child alone, only when there is no counter (R23). */
async function wasOomKilled(context: ExitContext, exitCode: number, kills: number | undefined): Promise<boolean> {
  if (exitCode !== KILLED) return false;
  const baseline = Number(readIfThere(context.files.oomBaseline) ?? 0);
  if (kills !== undefined) return kills > baseline;
  return readIfThere(context.files.oom) !== undefined && baseline === 0;
}

/** A container without a monitor loses its log and its stdio: it is ended at once, and never shown as running for nothing (R21). */
async function endUnmonitored(context: ExitContext): Promise<void> {
  const { id, created, cgroupPath, log } = context;
  if (isOver(created.init)) return;
  log.warn({ container: id, monitor: created.monitor.pid }, 'monitor is gone, killing its container');
  signal(created.init, SIGKILL);
  if (cgroupPath !== undefined) {
    await killCgroup(cgroupPath).catch((error: unknown) => log.warn({ container: id, err: messageOf(error) }, 'kill cgroup failed'));
  }
}

/** Init's end is its pidfd's; then conmon's exit file under a deadline; then what the kernel still knows. */
export async function awaitExit(context: ExitContext): Promise<RuntimeExit> {
  const { created, files, log, id } = context;
  const ended = watchProcess(created.init);
  const first = await Promise.race([ended.then(() => 'init' as const), watchProcess(created.monitor).then(() => 'monitor' as const)]);
  if (first === 'monitor') await endUnmonitored(context);
  const collected = await ended;
  const exitedAtNs = nowNs();
  const kills = context.cgroupPath === undefined ? undefined : await readOomKills(context.cgroupPath);
  // while a monitor that is stopped doesn't collect it, init's status can be read
  const zombie = zombieExit(created.init);
  let status = await pollExitFile(context, context.exitFileTimeoutMs);
  if (!status && !isOver(created.monitor)) {
    log.warn({ container: id, monitor: created.monitor.pid }, 'monitor is stuck: init ended and it wrote no exit file');
    signal(created.monitor, SIGCONT);
    status = await pollExitFile(context, 1000);
  }
  if (!status && zombie) status = { ...zombie, exitedAtNs };
  status ??= collected;
  if (!status) {
    const killedByUs = readIfThere(files.oomBaseline) !== undefined || first === 'monitor';
    status = { exitCode: killedByUs ? KILLED : UNKNOWN_EXIT, signal: killedByUs ? SIGKILL : 0, exitedAtNs };
    log.warn({ container: id, exitCode: status.exitCode }, 'exit code is lost');
  }
  return { ...status, oomKilled: await wasOomKilled(context, status.exitCode, kills) };
}
