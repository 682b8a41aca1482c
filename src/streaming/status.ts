import type { ErrorKind } from '../base/errors.ts';
import { kindOf, messageOf } from '../base/errors.ts';

/** HTTP status and metav1.StatusReason of each kind: the only place where streaming numbers errors. */
const CODES: Readonly<Record<ErrorKind, readonly [code: number, reason: string]>> = {
  invalidArgument: [400, 'BadRequest'],
  unauthenticated: [401, 'Unauthorized'],
  permissionDenied: [403, 'Forbidden'],
  notFound: [404, 'NotFound'],
  alreadyExists: [409, 'AlreadyExists'],
  aborted: [409, 'Conflict'],
  failedPrecondition: [412, 'Invalid'],
  resourceExhausted: [429, 'TooManyRequests'],
  cancelled: [499, 'Timeout'],
  internal: [500, 'InternalError'],
  dataLoss: [500, 'InternalError'],
  unimplemented: [501, 'MethodNotAllowed'],
  unavailable: [503, 'ServiceUnavailable'],
  deadlineExceeded: [504, 'Timeout'],
};

export const httpStatus = (error: unknown): number => CODES[kindOf(error)][0];

/** How a command ended: with an exit code, or not at all because of `error`. Attach has exit code 0. */
export type Outcome = { readonly exitCode: number } | { readonly error: unknown };

const words = (outcome: Outcome): string => {
  if ('error' in outcome) return messageOf(outcome.error);
  return outcome.exitCode === 0 ? '' : `command terminated with non-zero exit code: ${outcome.exitCode}`;
};

/** What the error stream carries before v4 of the protocol: nothing, or what went wrong. */
export const plainStatus = (outcome: Outcome): string => words(outcome);

/** What it carries from v4 on: a metav1.Status. */
export function jsonStatus(outcome: Outcome): string {
  if ('error' in outcome) {
    const [code, reason] = CODES[kindOf(outcome.error)];
    return JSON.stringify({ metadata: {}, status: 'Failure', message: words(outcome), reason, code });
  }
  if (outcome.exitCode === 0) return JSON.stringify({ metadata: {}, status: 'Success' });
  const causes = [{ reason: 'ExitCode', message: String(outcome.exitCode) }];
  return JSON.stringify({ metadata: {}, status: 'Failure', message: words(outcome), reason: 'NonZeroExitCode', details: { causes } });
}
