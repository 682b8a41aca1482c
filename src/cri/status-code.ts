import { status } from '@grpc/grpc-js';
import type { ErrorKind } from '../base/errors.ts';

/** The only place where an error's kind becomes a number of gRPC's. */
const CODES: Readonly<Record<ErrorKind, status>> = {
  invalidArgument: status.INVALID_ARGUMENT,
  notFound: status.NOT_FOUND,
  alreadyExists: status.ALREADY_EXISTS,
  failedPrecondition: status.FAILED_PRECONDITION,
  resourceExhausted: status.RESOURCE_EXHAUSTED,
  deadlineExceeded: status.DEADLINE_EXCEEDED,
  cancelled: status.CANCELLED,
  unavailable: status.UNAVAILABLE,
  unimplemented: status.UNIMPLEMENTED,
  permissionDenied: status.PERMISSION_DENIED,
  unauthenticated: status.UNAUTHENTICATED,
  aborted: status.ABORTED,
  dataLoss: status.DATA_LOSS,
  internal: status.INTERNAL,
};

export const statusCode = (kind: ErrorKind): status => CODES[kind];
