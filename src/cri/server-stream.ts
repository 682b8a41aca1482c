import { once } from 'node:events';
import type { handleServerStreamingCall, ServerWritableStream } from '@grpc/grpc-js';
import type { Logger } from '../base/log.ts';
import type { Op } from '../base/op.ts';
import type { Row } from './unary.ts';
import { callOp, logFailure, serviceError } from './unary.ts';

/** Records per message of a streamed list: some 10 KiB each at the worst stay far below the client's 4 MiB (P8). */
const CHUNK_RECORDS = 200;

/** A list in messages of bounded size; an empty list is one empty message's worth of nothing. */
export function* inChunks<T, Message>(records: readonly T[], view: (part: readonly T[]) => Message): Generator<Message> {
  for (let at = 0; at < records.length; at += CHUNK_RECORDS) yield view(records.slice(at, at + CHUNK_RECORDS));
}

/** A server-streaming RPC: writes what `work` yields at the pace of the client, and ends with it. */
export function serverStream<Request, Valid, Response>(
  validate: (request: Request) => Valid,
  work: (op: Op, request: Valid) => AsyncIterable<Response> | Iterable<Response>,
): Row<handleServerStreamingCall<Request, Response>> {
  return (name: string, log: Logger) => (call: ServerWritableStream<Request, Response>) => {
    const abort = new AbortController();
    call.on('cancelled', () => abort.abort());
    call.on('error', () => abort.abort());
    const op = callOp(name, log, call, abort.signal);
    const pump = async (): Promise<void> => {
      for await (const message of work(op, validate(call.request))) {
        if (abort.signal.aborted) return;
        if (!call.write(message)) await once(call, 'drain', { signal: abort.signal });
      }
    };
    pump().then(
      () => call.end(),
      (error: unknown) => {
        if (abort.signal.aborted) return void call.end();
        logFailure(op, error);
        call.destroy(Object.assign(new Error(), serviceError(error)));
      },
    );
  };
}
