import type { ExecResult } from '../runtime/runtime.ts';

/** What a kubelet takes as one message, less room for what frames the two streams in it. */
export const MAX_OUTPUT_BYTES = 16 * 1024 * 1024 - 1024;
const MARK = Buffer.from('\n[output was cut here: gantry returns at most 16 MiB]\n');

/** Both streams, each marked at its end where something is missing; together at most `maxBytes`, of which the shorter gets up to a half (S3). */
export function fittedOutput(result: ExecResult, maxBytes = MAX_OUTPUT_BYTES): { stdout: Buffer; stderr: Buffer } {
  const { stdout, stderr, truncated } = result;
  const stdoutBytes = Math.min(stdout.length, Math.max(maxBytes - stderr.length, Math.floor(maxBytes / 2)));
  return { stdout: cut(stdout, stdoutBytes, truncated.stdout), stderr: cut(stderr, maxBytes - stdoutBytes, truncated.stderr) };
}

function cut(output: Buffer, maxBytes: number, isCutAlready: boolean): Buffer {
  if (output.length <= maxBytes && !isCutAlready) return output;
  return Buffer.concat([output.subarray(0, Math.max(0, maxBytes - MARK.length)), MARK]);
}
