import type { WebSocket } from 'ws';
import { ClassifiedError } from '../../base/errors.ts';
import type { ForwardSession } from '../forward-session.ts';
import { allowedPort } from '../forward-session.ts';
import { ChannelConnection } from './connection.ts';

/** Of channels 2i and 2i+1, so that every number fits one character of the base64 form and one byte. */
const MAX_PORTS = 100;
const MAX_BASE64_PORTS = 5;

/**
 * Port forwarding over channels: for the i-th port channel 2i carries its one connection and channel 2i+1 its error. Both begin with the port, uint16 little
 * endian. The ports are the request's, or else those of the URL's query `port`.
 */
export async function forwardOverChannels(ws: WebSocket, protocol: string, session: ForwardSession): Promise<void> {
  const { upgrade } = session;
  const base64 = protocol.includes('base64');
  const connection = new ChannelConnection(ws, { limits: upgrade.limits, base64, closeSignal: false });
  void connection.closed.then((reason) => upgrade.abort(reason));
  upgrade.signal.addEventListener('abort', () => connection.end(new ClassifiedError('cancelled', 'the session was ended')), { once: true });
  const ports = wantedPorts(session);
  const most = base64 ? MAX_BASE64_PORTS : MAX_PORTS;
  if (!ports || ports.length > most) {
    const why = ports ? `${ports.length} ports, at most ${most} can be forwarded` : 'query port: ports from 1 to 65535 are required';
    return connection.end(new ClassifiedError('invalidArgument', why));
  }
  await Promise.all(
    ports.map(async (port, i) => {
      const [data, error] = [connection.open(2 * i), connection.open(2 * i + 1)];
      error.resume();
      // There is no word for a half-close: when the pod has ended, so has the connection.
      data.once('finish', () => data.endInput());
      const bytes = Buffer.alloc(2);
      bytes.writeUInt16LE(port);
      data.write(bytes);
      error.write(bytes);
      const failure = await session.forward(port, data);
      if (failure !== undefined) error.end(failure);
    }),
  );
  await connection.close();
}

function wantedPorts(session: ForwardSession): readonly number[] | undefined {
  if (session.ports.length > 0) return session.ports;
  const query = new URL(session.upgrade.request.url ?? '', 'http://localhost').searchParams.getAll('port');
  const ports = query.flatMap((text) => text.split(',')).map((text) => allowedPort(session, text));
  return ports.length > 0 && ports.every((port) => port !== undefined) ? ports : undefined;
}
