import type { ErrorKind } from '../base/errors.ts';

/** The only place where an error's kind becomes a number of gRPC's (https://github.com/grpc/grpc/blob/master/doc/statuscodes.md). */
const CODES: Readonly<Record<ErrorKind, number>> = {
  cancelled: 1,
  invalidArgument: 3,
  deadlineExceeded: 4,
  notFound: 5,
  alreadyExists: 6,
  permissionDenied: 7,
  resourceExhausted: 8,
  failedPrecondition: 9,
  aborted: 10,
  unimplemented: 12,
  internal: 13,
  unavailable: 14,
  dataLoss: 15,
  unauthenticated: 16,
};

export const statusCode = (kind: ErrorKind): number => CODES[kind];
