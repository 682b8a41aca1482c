import { setTimeout as sleep } from 'node:timers/promises';
import type { Op } from '../base/op.ts';
import { findByEnv, signal } from '../os/process.ts';
import { watchProcess } from '../os/reactor.ts';

const SIGKILL = 9;
const GONE_TIMEOUT_MS = 2000;

/**
 * Plugins of an attach that has no end: a daemon that was killed leaves them at work, and what they add after the DEL nobody would delete (R3).
 * A plugin, and what it executes, has the sandbox in its environment. Waits until they are gone.
 */
export async function endPlugins(op: Op, sandboxId: string): Promise<void> {
  const left = findByEnv(`CNI_CONTAINERID=${sandboxId}`);
  if (left.length === 0) return;
  op.log.warn({ sandbox: sandboxId, pids: left.map(({ pid }) => pid) }, 'ending CNI plugins that an earlier daemon left');
  for (const ref of left) signal(ref, SIGKILL);
  await Promise.race([Promise.all(left.map((ref) => watchProcess(ref))), sleep(GONE_TIMEOUT_MS, undefined, { ref: false })]);
}
