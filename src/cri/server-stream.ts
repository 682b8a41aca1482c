import type { Op } from '../base/op.ts';
import { MAX_MESSAGE_BYTES } from './chunks.ts';
import type { Message } from './grpc.ts';
import { AnswerEncoder, OfRecords } from './of-records.ts';
import type { Row } from './unary.ts';
import { callOp, logFailure, statusOf } from './unary.ts';

/**
 * A server-streaming RPC: writes what `work` yields at the pace of the client, and ends with it; an answer made of records in parts that every client takes. A
 * message is asked for when the one before has left: a client that doesn't read costs one message.
 */
export function serverStream<Request, Valid, Response>(
  validate: (request: Request) => Valid,
  work: (op: Op, request: Valid) => AsyncIterable<Response> | Iterable<Response> | OfRecords<Response>,
): Row<Request, Response> {
  return (name, { log }, { decode, encode }) => {
    const rpcLog = log.child({ rpc: name });
    const encoder = new AnswerEncoder(encode);
    async function* messages(op: Op, request: Request): AsyncGenerator<Message> {
      const answer = work(op, validate(request));
      if (answer instanceof OfRecords) return yield* encoder.chunks(answer, MAX_MESSAGE_BYTES);
      for await (const message of answer) yield encoder.encode(message);
    }
    return (call) => {
      const op = callOp(name, rpcLog, call);
      const pump = async (): Promise<void> => {
        for await (const message of messages(op, decode(call.message))) {
          if (call.isOver) return;
          await call.send(message);
        }
      };
      pump().then(
        () => call.end(),
        (error: unknown) => {
          if (call.isOver) return;
          logFailure(op, error);
          call.fail(statusOf(error));
        },
      );
    };
  };
}
