/** One per gRPC status that Gantry answers with; `cri/status-code` and `streaming` translate them. */
export type ErrorKind =
  | 'invalidArgument'
  | 'notFound'
  | 'alreadyExists'
  | 'failedPrecondition'
  | 'resourceExhausted'
  | 'deadlineExceeded'
  | 'cancelled'
  | 'unavailable'
  | 'unimplemented'
  | 'permissionDenied'
  | 'unauthenticated'
  | 'aborted'
  | 'dataLoss'
  | 'internal';

/**
 * The only error class that crosses a room's border. `kind` is set where the fact is known, never where it is reported.
 * It has no numeric `code`: grpc-js would copy that into the status.
 */
export class ClassifiedError extends Error {
  readonly kind: ErrorKind;
  readonly detail: Readonly<Record<string, unknown>> | undefined;

  constructor(kind: ErrorKind, message: string, options: { cause?: unknown; detail?: Record<string, unknown> } = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.name = 'ClassifiedError';
    this.kind = kind;
    this.detail = options.detail;
  }
}

/** `field` is the path of the request's or file's field, as the CRI spells it: `config.metadata.name`. */
export const invalidArgument = (field: string, why: string): ClassifiedError => new ClassifiedError('invalidArgument', `${field}: ${why}`);

export const notFound = (noun: string, id: string): ClassifiedError =>
  new ClassifiedError('notFound', `${noun} ${JSON.stringify(id)} not found`);

/** Adds what was being done to an error without losing its kind. */
export function wrap(what: string, cause: unknown, kind?: ErrorKind): ClassifiedError {
  return new ClassifiedError(kind ?? kindOf(cause), `${what}: ${messageOf(cause)}`, { cause });
}

/** The kind of anything that was thrown; errno errors and foreign errors are `internal`, aborts are `cancelled`. */
export function kindOf(error: unknown): ErrorKind {
  if (error instanceof ClassifiedError) return error.kind;
  if (error instanceof Error && error.name === 'AbortError') return 'cancelled';
  if (error instanceof Error && error.name === 'TimeoutError') return 'deadlineExceeded';
  return 'internal';
}

export function messageOf(error: unknown): string {
  if (error instanceof AggregateError) return [error.message, ...error.errors.map(messageOf)].filter(Boolean).join('; ');
  return error instanceof Error ? error.message : String(error);
}

/** Node's errno name (`ENOENT`), if the error is a failed system call. */
export function errnoOf(error: unknown): string | undefined {
  return error instanceof Error && 'code' in error && typeof error.code === 'string' ? error.code : undefined;
}

/** No bytes, no inodes, or no more of them for us. */
export const isDiskFull = (error: unknown): boolean => ['ENOSPC', 'EDQUOT'].includes(errnoOf(error) ?? '');
