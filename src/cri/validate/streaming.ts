import { invalidArgument } from '../../base/errors.ts';
import type { AttachRequest__Output } from '../../gen/cri/runtime/v1/AttachRequest.ts';
import type { ExecRequest__Output } from '../../gen/cri/runtime/v1/ExecRequest.ts';
import type { PortForwardRequest__Output } from '../../gen/cri/runtime/v1/PortForwardRequest.ts';
import { nonEmpty, noNul, port } from './fields.ts';

/** A terminal has one output (CRI, ExecRequest: "If tty is true, stderr MUST be false"). */
function streams({ tty, stdin, stdout, stderr }: { tty: boolean; stdin: boolean; stdout: boolean; stderr: boolean }): void {
  if (tty && stderr) throw invalidArgument('stderr', 'must be false with tty');
  if (!stdin && !stdout && !stderr) throw invalidArgument('stdout', 'one of stdin, stdout and stderr must be true');
}

export function exec(request: ExecRequest__Output): ExecRequest__Output {
  nonEmpty(request.containerId, 'container_id');
  command(request.cmd);
  streams(request);
  return request;
}

export function command(cmd: readonly string[]): void {
  const [program] = cmd;
  if (program === undefined) throw invalidArgument('cmd', 'must not be empty');
  nonEmpty(program, 'cmd[0]');
  cmd.forEach((text, index) => noNul(text, `cmd[${index}]`));
}

export function attach(request: AttachRequest__Output): AttachRequest__Output {
  nonEmpty(request.containerId, 'container_id');
  streams(request);
  return request;
}

/** Without ports: those that the client names later. */
export function portForward(request: PortForwardRequest__Output): PortForwardRequest__Output {
  nonEmpty(request.podSandboxId, 'pod_sandbox_id');
  request.port.forEach((number, index) => port(number, `port[${index}]`, 1));
  return request;
}
