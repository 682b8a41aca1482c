import { finished } from 'node:stream/promises';
import { ClassifiedError } from '../../base/errors.ts';
import type { ClientStream } from '../client-stream.ts';
import type { Command, WantedStreams } from '../command.ts';
import { lingeredTooLong, ResizeEvents, settlesWithin } from '../command.ts';
import type { Outcome } from '../status.ts';
import { jsonStatus, plainStatus } from '../status.ts';
import type { Upgrade } from '../upgrade.ts';
import { SpdyConnection } from './connection.ts';
import { switchToSpdy } from './handshake.ts';

/** Best first. v2 is v1 with a stdin that can be half-closed, v3 adds resize, v4 the status as JSON; v5 changes WebSockets only. */
const PROTOCOLS = ['v5.channel.k8s.io', 'v4.channel.k8s.io', 'v3.channel.k8s.io', 'v2.channel.k8s.io', 'channel.k8s.io'];

const versionOf = (protocol: string): number => PROTOCOLS.length - PROTOCOLS.indexOf(protocol);

/**
 * The `remotecommand` protocol over SPDY: the client opens one stream for each thing that it wants, named by the header `streamtype`. deadlineExceeded when
 * they do not all come within `streamCreationMs`.
 */
export async function openSpdyCommand(upgrade: Upgrade, wanted: WantedStreams): Promise<Command> {
  const { limits, socket } = upgrade;
  const version = versionOf(switchToSpdy(upgrade, PROTOCOLS));
  const expected = new Set(['error']);
  for (const name of ['stdin', 'stdout', 'stderr'] as const) if (wanted[name]) expected.add(name);
  if (wanted.tty && version >= 3) expected.add('resize');

  const streams = new Map<string, ClientStream>();
  const complete = Promise.withResolvers<void>();
  const connection = new SpdyConnection(socket, {
    limits,
    accepts: (headers) => {
      const type = headers.get('streamtype') ?? '';
      return expected.has(type) && !streams.has(type);
    },
    onStream: (stream, headers) => {
      streams.set(headers.get('streamtype') ?? '', stream);
      if (streams.size === expected.size) complete.resolve();
    },
  });
  void connection.closed.then((reason) => upgrade.abort(reason));
  upgrade.signal.addEventListener('abort', () => connection.end(new ClassifiedError('cancelled', 'the session was ended')), { once: true });
  const inTime = await settlesWithin(Promise.race([complete.promise, connection.closed]), limits.streamCreationMs);
  upgrade.signal.throwIfAborted();
  const statusText = (outcome: Outcome): string => (version >= 4 ? jsonStatus(outcome) : plainStatus(outcome));
  if (!inTime) {
    const missing = [...expected].filter((type) => !streams.has(type)).join(', ');
    const error = new ClassifiedError(
      'deadlineExceeded',
      `the client did not open its streams within ${limits.streamCreationMs} ms: ${missing}`,
    );
    streams.get('error')?.end(statusText({ error }));
    connection.end(error);
    upgrade.abort(error);
    throw error;
  }
  connection.acceptNoMore();
  // v1 clients take the end of our half as the sign to write.
  if (version === 1) streams.get('stdin')?.end();
  for (const name of ['error', 'stdout', 'stderr']) streams.get(name)?.resume();
  const resize = new ResizeEvents();
  streams.get('resize')?.on('data', (bytes: Buffer) => resize.push(bytes));

  const finish = async (outcome: Outcome): Promise<void> => {
    // A reset, unlike an end, also drops what the client still sends.
    for (const name of ['stdin', 'resize']) streams.get(name)?.destroy();
    const outputs = ['error', 'stdout', 'stderr'].flatMap((name) => streams.get(name) ?? []);
    streams.get('error')?.write(statusText(outcome));
    for (const output of outputs) output.end();
    await Promise.allSettled(outputs.map((output) => finished(output, { readable: false })));
    if (!(await settlesWithin(connection.closed, limits.lingerMs))) connection.end(lingeredTooLong(limits.lingerMs));
    await connection.closed;
  };
  return {
    streams: { stdin: streams.get('stdin'), stdout: streams.get('stdout'), stderr: streams.get('stderr'), onResize: resize.onResize },
    finish,
  };
}
