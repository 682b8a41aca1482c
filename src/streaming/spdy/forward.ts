import type { Duplex } from 'node:stream';
import { ClassifiedError } from '../../base/errors.ts';
import type { ClientStream } from '../client-stream.ts';
import type { ForwardSession } from '../forward-session.ts';
import { allowedPort } from '../forward-session.ts';
import { SpdyConnection } from './connection.ts';
import type { Headers } from './headers.ts';

interface Pair {
  error?: ClientStream;
  data?: ClientStream;
  timer?: NodeJS.Timeout;
}

/**
 * The `portforward.k8s.io` protocol: for each connection the client opens an error and a data stream with the same `requestid` and `port`. Resolves when the
 * client has gone and the last connection into the pod is closed.
 */
export async function forwardOverSpdy(transport: Duplex, session: ForwardSession): Promise<void> {
  const { upgrade } = session;
  const { limits } = upgrade;
  const pairs = new Map<string, Pair>();
  const running = new Set<Promise<void>>();
  const connection = new SpdyConnection(transport, {
    limits,
    accepts: (headers) =>
      /^(error|data)$/.test(headers.get('streamtype') ?? '') && allowedPort(session, headers.get('port') ?? '') !== undefined,
    onStream: (stream, headers) => {
      const type = headers.get('streamtype') === 'data' ? 'data' : 'error';
      const key = requestId(stream, type, headers);
      const pair: Pair = pairs.get(key) ?? {};
      // A second one of the same type.
      if (pair[type]) return void stream.destroy();
      pair[type] = stream;
      if (type === 'error') stream.resume();
      if (!pairs.has(key)) pair.timer = setTimeout(() => giveUp(key), limits.streamCreationMs).unref();
      pairs.set(key, pair);
      // One that is reset before the other has come is not waited for: what waits is bounded by the streams that are open.
      stream.once('close', () => pairs.get(key) === pair && forget(key, type));
      if (pair.error && pair.data) begin(key, allowedPort(session, headers.get('port') ?? '') ?? 0, pair.error, pair.data);
    },
  });
  void connection.closed.then((reason) => upgrade.abort(reason));
  upgrade.signal.addEventListener('abort', () => connection.end(new ClassifiedError('cancelled', 'the session was ended')), { once: true });

  function take(key: string): Pair | undefined {
    const pair = pairs.get(key);
    clearTimeout(pair?.timer);
    pairs.delete(key);
    return pair;
  }

  function forget(key: string, gone: 'error' | 'data'): void {
    take(key)?.[gone === 'error' ? 'data' : 'error']?.destroy();
  }

  function giveUp(key: string): void {
    const pair = take(key);
    pair?.error?.end(`request ${key}: the other stream did not come within ${limits.streamCreationMs} ms`);
    pair?.data?.destroy();
  }

  function begin(key: string, port: number, error: ClientStream, data: ClientStream): void {
    take(key);
    // Streams that are reset at once are gone before their work is: it is that which is counted.
    if (running.size >= limits.maxStreams / 2) {
      error.end('too many connections at a time');
      data.destroy();
      return;
    }
    const work = session
      .forward(port, data)
      .then((failure) => {
        error.end(failure);
        data.destroy();
      })
      .finally(() => running.delete(work));
    running.add(work);
  }

  await connection.closed;
  for (const key of [...pairs.keys()]) take(key);
  await Promise.all(running);
}

/** Clients before Kubernetes 1.1 send no id: the data stream is the one after its error stream. */
const requestId = (stream: ClientStream, type: 'error' | 'data', headers: Headers): string =>
  headers.get('requestid') || `stream ${type === 'error' ? stream.id : stream.id - 2}`;
