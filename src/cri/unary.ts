import type { ErrorKind } from '../base/errors.ts';
import { kindOf, messageOf } from '../base/errors.ts';
import type { Logger } from '../base/log.ts';
import type { Op } from '../base/op.ts';
import { newOp, Span } from '../base/op.ts';
import type { Codec } from './codec.ts';
import type { Call, Handler, Message, Status } from './grpc.ts';
import type { Answer } from './of-records.ts';
import { AnswerEncoder } from './of-records.ts';
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

/** A row of a service before it knows its name, server and encoding; `server.ts` binds it. */
export type Row<Request, Response> = (name: string, edge: Edge, codec: Codec<Request, Response>) => Handler;

/** Slower calls than this are told with the time of each stage. */
const SLOW_MS = 1_000;

/** Kept back of a client's time, at most: an answer that leaves at the deadline comes too late to tell what was waited for (R1). */
const MARGIN_MS = 500;
const MARGIN = 0.05;

/**
 * The op of one call: the client's deadline, less the time that the answer takes, and cancellation. Its signal is made when somebody looks: a timer and what
 * joins two signals cost more than an answer from memory.
 */
export function callOp(name: string, log: Logger, call: Call): Op {
  const leftMs = call.deadlineMs - Date.now();
  const deadlineMs = Math.floor(call.deadlineMs - Math.min(MARGIN_MS, leftMs * MARGIN));
  let signal: AbortSignal | undefined;
  return {
    get signal() {
      if (signal === undefined) {
        const abort = new AbortController();
        call.whenGivenUp(() => abort.abort());
        ({ signal } = newOp(name, { signal: abort.signal, timeoutMs: deadlineMs - Date.now() }));
      }
      return signal;
    },
    log,
    deadlineMs,
    span: new Span(name),
  };
}

/** The message travels percent-encoded in a header, of which clients take 64 KiB: a longer one would cost the code too. */
const MAX_DETAILS_CHARS = 4096;

/** The kind's code and the message. */
export function statusOf(error: unknown): Status {
  const text = messageOf(error);
  return {
    code: statusCode(kindOf(error)),
    details: text.length > MAX_DETAILS_CHARS ? `${text.slice(0, MAX_DETAILS_CHARS)}...` : text,
  };
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

/** A unary RPC: `validate` narrows the request or throws, `work` answers. The only place that calls one. */
export function unary<Request, Valid, Response>(
  validate: (request: Request) => Valid,
  work: (op: Op, request: Valid) => Answer<Response> | Promise<Answer<Response>>,
): Row<Request, Response> {
  return (name, { log, observe }, { decode, encode }) => {
    const rpcLog = log.child({ rpc: name });
    const encoder = new AnswerEncoder(encode);
    return (call) => {
      const op = callOp(name, rpcLog, call);
      const answer = async (): Promise<Message> => encoder.encode(await work(op, validate(decode(call.message))));
      const seen = (result: CallSeen['result']): void => observe({ rpc: name, result, durationMs: op.span.ageMs, stages: op.span.stages });
      answer().then(
        (message) => {
          if (op.span.ageMs > SLOW_MS) op.log.info({ totalMs: op.span.ageMs, stages: op.span.stages }, 'slow call');
          call.end(message);
          seen('ok');
        },
        (error: unknown) => {
          logFailure(op, error);
          call.fail(statusOf(error));
          seen(kindOf(error));
        },
      );
    };
  };
}
