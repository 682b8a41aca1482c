import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { ClassifiedError } from '../base/errors.ts';
import type { Op } from '../base/op.ts';
import type { ExecResult } from '../runtime/runtime.ts';
import type { ContainerDeps } from './deps.ts';
import { findContainer } from './list.ts';
import { buildExecProcess } from './oci-spec/spec.ts';
import type { OciSpec } from './oci-spec/spec-types.ts';
import type { ContainerRecord } from './record.ts';
import { containerPaths } from './record.ts';

/** Of stdout and stderr each (S3). */
const MAX_OUTPUT_BYTES = 16 * 1024 * 1024;

/** CRI ExecSync: runs `command` as the container's own user and returns when it exits. `timeoutMs` undefined: none. deadlineExceeded after it killed the whole tree. */
export async function execSync(
  deps: ContainerDeps,
  op: Op,
  id: string,
  request: { command: readonly string[]; timeoutMs: number | undefined },
): Promise<ExecResult> {
  const record = findContainer(deps, id);
  if (record.state !== 'running') throw new ClassifiedError('failedPrecondition', `exec in container ${record.id}: it is ${record.state}`);
  const process = buildExecProcess({ spec: await specOf(deps, record), command: request.command, tty: false });
  op.span.stage('runtime exec');
  return deps.handler(record.runtimeHandler).execSync(op, record.id, {
    process: { ...process },
    maxOutputBytes: MAX_OUTPUT_BYTES,
    timeoutMs: request.timeoutMs,
  });
}

async function specOf(deps: ContainerDeps, record: ContainerRecord): Promise<OciSpec> {
  return JSON.parse(await readFile(join(containerPaths(deps.stateDir, record.id).bundle, 'config.json'), 'utf8')) as OciSpec;
}
