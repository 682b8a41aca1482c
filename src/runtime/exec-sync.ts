import { ClassifiedError } from '../base/errors.ts';
import type { Op } from '../base/op.ts';
import { orOver } from '../base/op.ts';
import type { ExitStatus } from '../os/spawn.ts';
import { pipe } from '../os/spawn.ts';
import type { ExecContext } from './exec-process.ts';
import { ExecProcess } from './exec-process.ts';
import { Capture, closeAll } from './pipe-reader.ts';
import type { ExecRequest, ExecResult } from './runtime.ts';

function commandOf(request: ExecRequest): string {
  const { args } = request.process;
  const text = Array.isArray(args) ? args.map(String).join(' ') : '';
  return JSON.stringify(text.length > 100 ? `${text.slice(0, 100)}...` : text);
}

function timeoutOf(ms: number | undefined): { over: Promise<'timeout'>; clear: () => void } {
  const { promise, resolve } = Promise.withResolvers<'timeout'>();
  const timer = ms === undefined ? undefined : setTimeout(() => resolve('timeout'), ms);
  return { over: promise, clear: () => clearTimeout(timer) };
}

async function started(run: ExecProcess, request: ExecRequest): Promise<{ stdout: Capture; stderr: Capture }> {
  const out = pipe();
  const err = pipe();
  try {
    await run.start(request.process, { stdout: out.write, stderr: err.write });
  } catch (error) {
    closeAll([out.read, err.read]);
    throw error;
  } finally {
    closeAll([out.write, err.write]);
  }
  return { stdout: new Capture(out.read, request.maxOutputBytes), stderr: new Capture(err.read, request.maxOutputBytes) };
}

/**
 * Runs one process in a container without a monitor and answers as soon as it ends (R15): children that it left keep running, in the
 * container. At the timeout, or when the op ends, all that it started is killed (R14): deadlineExceeded, or the op's error.
 */
export async function execSync(op: Op, context: ExecContext, request: ExecRequest): Promise<ExecResult> {
  const timeout = timeoutOf(request.timeoutMs);
  let captured: { stdout: Capture; stderr: Capture } | undefined;
  try {
    await using run = await ExecProcess.prepare(op, context);
    captured = await started(run, request);
    const { stdout, stderr } = captured;
    let outcome: ExitStatus | 'timeout';
    try {
      outcome = await orOver(op, Promise.race([run.exited(() => stderr.finish().toString()), timeout.over]));
    } catch (error) {
      if (op.signal.aborted) await run.kill();
      throw error;
    }
    if (outcome === 'timeout') {
      await run.kill();
      throw new ClassifiedError('deadlineExceeded', `exec sync ${commandOf(request)} timed out after ${request.timeoutMs} ms`);
    }
    const [out, err] = [stdout.finish(), stderr.finish()];
    return { exitCode: outcome.exitCode, stdout: out, stderr: err, truncated: { stdout: stdout.truncated, stderr: stderr.truncated } };
  } finally {
    timeout.clear();
    captured?.stdout.finish();
    captured?.stderr.finish();
  }
}
