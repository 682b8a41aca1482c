import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Op } from '../base/op.ts';
import type { ProcessStreams } from '../runtime/runtime.ts';
import type { ContainerDeps } from './deps.ts';
import { fittedOutput, MAX_OUTPUT_BYTES } from './exec-output.ts';
import { buildExecProcess } from './oci-spec/spec.ts';
import type { OciProcess, OciSpec } from './oci-spec/spec-types.ts';
import type { ContainerRecord } from './record.ts';
import { containerPaths } from './record.ts';
import { runningContainer } from './running.ts';

/** CRI ExecSync: runs `command` as the container's own user and returns when it exits. `timeoutMs` undefined: none. deadlineExceeded after it killed the whole tree. Output that is too large ends in a line that says so. */
export async function execSync(
  deps: ContainerDeps,
  op: Op,
  id: string,
  request: { command: readonly string[]; timeoutMs: number | undefined },
): Promise<{ exitCode: number; stdout: Buffer; stderr: Buffer }> {
  const record = runningContainer(deps, id, 'exec in');
  const process = processFor(deps, record, { command: request.command, tty: false });
  op.span.stage('runtime exec');
  const result = await deps.handler(record.runtimeHandler).execSync(op, record.id, {
    process: { ...process },
    maxOutputBytes: MAX_OUTPUT_BYTES,
    timeoutMs: request.timeoutMs,
  });
  return { exitCode: result.exitCode, ...fittedOutput(result) };
}

/** CRI Exec, once its client has come: resolves with the exit code. When the op ends, the whole tree is killed (R14). */
export async function exec(
  deps: ContainerDeps,
  op: Op,
  id: string,
  request: { command: readonly string[]; tty: boolean; streams: ProcessStreams },
): Promise<number> {
  const record = runningContainer(deps, id, 'exec in');
  const { tty, streams } = request;
  // Who may log in by exec is kubelet's business; that somebody did is the operator's. Arguments may be secrets.
  op.log.info({ container: record.id, program: request.command[0], tty }, 'exec');
  const process = processFor(deps, record, request);
  return deps.handler(record.runtimeHandler).exec(op, record.id, { process: { ...process }, tty, streams });
}

function processFor(deps: ContainerDeps, record: ContainerRecord, request: { command: readonly string[]; tty: boolean }): OciProcess {
  const file = join(containerPaths(deps.stateDir, record.id).bundle, 'config.json');
  const spec = JSON.parse(readFileSync(file, 'utf8')) as OciSpec;
  return buildExecProcess({ spec, command: request.command, tty: request.tty });
}
