import type { handleServerStreamingCall, ServerWritableStream } from '@grpc/grpc-js';
import type { Op } from '../base/op.ts';
import type { Edge, Row } from './unary.ts';
import { callOp, logFailure, serviceError } from './unary.ts';

/**
 * A server-streaming RPC: writes what `work` yields at the pace of the client, and ends with it. A message is asked for when the one before has left:
 * a client that doesn't read costs one message.
 */
export function serverStream<Request, Valid, Response>(
  validate: (request: Request) => Valid,
  work: (op: Op, request: Valid) => AsyncIterable<Response> | Iterable<Response>,
): Row<handleServerStreamingCall<Request, Response>> {
  return (name: string, { log }: Edge) => {
    const rpcLog = log.child({ rpc: name });
    return (call: ServerWritableStream<Request, Response>) => {
      const abort = new AbortController();
      call.on('cancelled', () => abort.abort());
      call.on('error', () => abort.abort());
      const op = callOp(name, rpcLog, call, () => abort.signal);
      const pump = async (): Promise<void> => {
        for await (const message of work(op, validate(call.request))) {
          if (abort.signal.aborted) return;
          await written(call, message, abort.signal);
        }
      };
      pump().then(
        () => call.end(),
        (error: unknown) => {
          if (abort.signal.aborted) return void call.end();
          logFailure(op, error);
          // Not destroy(): grpc-js sends the status when the stream ends, and a destroyed one doesn't.
          call.emit('error', Object.assign(new Error(), serviceError(error)));
        },
      );
    };
  };
}

/** Resolves when HTTP/2 has taken the message, or the call is over: then grpc-js doesn't call back. */
function written<Request, Response>(call: ServerWritableStream<Request, Response>, message: Response, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const done = (): void => {
      signal.removeEventListener('abort', done);
      resolve();
    };
    signal.addEventListener('abort', done);
    call.write(message, done);
  });
}
