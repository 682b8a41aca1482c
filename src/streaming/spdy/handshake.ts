import { ClassifiedError } from '../../base/errors.ts';
import { HttpRefusal } from '../upgrade.ts';
import type { Upgrade } from '../upgrade.ts';

/**
 * Switches the client to SPDY/3.1 with the first of its protocols that is among `protocols`, and returns which. Refuses with 400 without such headers and
 * with 403 and the protocols' names when none is common, like client-go expects.
 */
export function switchToSpdy({ request, socket, head }: Upgrade, protocols: readonly string[]): string {
  const upgrade = request.headers.upgrade?.toLowerCase() ?? '';
  if (!upgrade.includes('spdy/3.1'))
    throw new ClassifiedError('invalidArgument', 'unable to upgrade: neither SPDY/3.1 nor a websocket is asked for');
  const asked = String(request.headers['x-stream-protocol-version'] ?? '')
    .split(',')
    .map((name) => name.trim())
    .filter((name) => name !== '');
  if (asked.length === 0) throw new ClassifiedError('invalidArgument', 'unable to upgrade: no X-Stream-Protocol-Version header');
  const protocol = asked.find((name) => protocols.includes(name));
  if (protocol === undefined) {
    const headers = protocols.map((name) => `X-Accepted-Stream-Protocol-Versions: ${name}`);
    throw new HttpRefusal(403, `unable to upgrade: client supports ${asked.join(', ')}, server accepts ${protocols.join(', ')}`, headers);
  }
  const lines = ['HTTP/1.1 101 Switching Protocols', 'Connection: Upgrade', 'Upgrade: SPDY/3.1', `X-Stream-Protocol-Version: ${protocol}`];
  socket.write([...lines, '', ''].join('\r\n'));
  if (head.length > 0) socket.unshift(head);
  return protocol;
}
