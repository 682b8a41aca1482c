import type { handleUnaryCall, sendUnaryData, ServerUnaryCall, ServiceError } from '@grpc/grpc-js';
import type { ErrorKind } from '../base/errors.ts';
import { kindOf, messageOf } from '../base/errors.ts';
import type { Logger } from '../base/log.ts';
import type { Op } from '../base/op.ts';
import { newOp, Span } from '../base/op.ts';
import type { Answer } from './of-records.ts';
import { statusCode } from './status-code.ts';

/** What a row gets of the server it is bound in. */
export interface Edge {
  readonly log: Logger;
  /** Told of each call that has ended. */
  readonly observe: (call: CallSeen) => void;
}

export interface CallSeen {
  readonly rpc: string;
  /** `ok`, or the kind of the error. */
  readonly result: 'ok' | ErrorKind;
  readonly durationMs: number;
  readonly stages: ReadonlyArray<{ readonly stage: string; readonly durationMs: number }>;
}

/** A row of a service before it knows its name and server; `server.ts` binds it. */
export type Row<Handler> = (name: string, edge: Edge) => Handler;

/** Slower calls than this are told with the time of each stage. */
const SLOW_MS = 1_000;

/** Kept back of a client's time, at most: an answer that leaves at the deadline comes too late to tell what was waited for (R1). */
const MARGIN_MS = 500;
const MARGIN = 0.05;

/**
 * The op of one call: the client's deadline, less the time that the answer takes, and cancellation. Its signal is made when somebody looks: a timer and what
 * joins two signals cost more than an answer from memory.
 */
export function callOp(name: string, log: Logger, call: { getDeadline(): Date | number }, cancelled: () => AbortSignal): Op {
  const leftMs = Number(call.getDeadline()) - Date.now();
  const timeoutMs = Math.floor(leftMs - Math.min(MARGIN_MS, leftMs * MARGIN));
  const deadlineMs = Number.isFinite(timeoutMs) ? Date.now() + timeoutMs : Infinity;
  let signal: AbortSignal | undefined;
  return {
    get signal() {
      return (signal ??= newOp(name, { signal: cancelled(), timeoutMs: deadlineMs - Date.now() }).signal);
    },
    log,
    deadlineMs,
    span: new Span(name),
  };
}

/** Aborted when the client gives up, and after the answer. */
function cancellation(call: ServerUnaryCall<unknown, unknown>): AbortSignal {
  if (call.cancelled) return AbortSignal.abort();
  const abort = new AbortController();
  call.once('cancelled', () => abort.abort());
  return abort.signal;
}

/** The message travels percent-encoded in a header, of which clients take 64 KiB: a longer one would cost the code too. */
const MAX_DETAILS_CHARS = 4096;

/** grpc-js throws, out of everybody's reach, on half a surrogate pair, as it is left by who cuts the words of a program in the middle of an emoji. */
function detailsOf(error: unknown): string {
  const text = messageOf(error);
  return (text.length > MAX_DETAILS_CHARS ? `${text.slice(0, MAX_DETAILS_CHARS)}...` : text).toWellFormed();
}

/** What grpc-js sends for an error: the kind's code and the message. */
export function serviceError(error: unknown): Pick<ServiceError, 'code' | 'details' | 'message' | 'name'> {
  const details = detailsOf(error);
  return { name: 'Error', message: details, code: statusCode(kindOf(error)), details };
}

/** Failures that are a client's mistake are no news for the operator. */
const EXPECTED: ReadonlySet<string> = new Set(['invalidArgument', 'notFound', 'alreadyExists', 'unimplemented', 'cancelled']);

export function logFailure(op: Op, error: unknown): void {
  const kind = kindOf(error);
  const fields = { kind, err: messageOf(error), stage: op.span.current.stage };
  if (EXPECTED.has(kind)) op.log.debug(fields, 'call failed');
  else if (kind === 'internal' && error instanceof Error) op.log.error({ ...fields, stack: error.stack }, 'call failed');
  else op.log.warn(fields, 'call failed');
}

/**
 * A unary RPC: `validate` narrows the request or throws, `work` answers. grpc-js does not await handlers, and a rejection would leave the client hanging:
 * this is the only place that calls one.
 */
export function unary<Request, Valid, Response>(
  validate: (request: Request) => Valid,
  work: (op: Op, request: Valid) => Answer<Response> | Promise<Answer<Response>>,
): Row<handleUnaryCall<Request, Response>> {
  return (name, { log, observe }) => {
    const rpcLog = log.child({ rpc: name });
    return (call: ServerUnaryCall<Request, Response>, callback: sendUnaryData<Response>) => {
      const op = callOp(name, rpcLog, call, () => cancellation(call));
      const answer = async (): Promise<Answer<Response>> => work(op, validate(call.request));
      const seen = (result: CallSeen['result']): void => observe({ rpc: name, result, durationMs: op.span.ageMs, stages: op.span.stages });
      answer().then(
        (response) => {
          if (op.span.ageMs > SLOW_MS) op.log.info({ totalMs: op.span.ageMs, stages: op.span.stages }, 'slow call');
          // The server's encoder takes both.
          callback(null, response as Response);
          seen('ok');
        },
        (error: unknown) => {
          logFailure(op, error);
          callback(serviceError(error));
          seen(kindOf(error));
        },
      );
    };
  };
}
