import { finished } from 'node:stream/promises';
import { ClassifiedError } from '../../base/errors.ts';
import type { Command, WantedStreams } from '../command.ts';
import { ResizeEvents } from '../command.ts';
import type { Outcome } from '../status.ts';
import { jsonStatus, plainStatus } from '../status.ts';
import type { Upgrade } from '../upgrade.ts';
import { ChannelConnection } from './connection.ts';
import { switchToWebSocket } from './handshake.ts';

const CHANNEL = { stdin: 0, stdout: 1, stderr: 2, error: 3, resize: 4 } as const;

/** Without a version, and without any name, it is v1: errors as text. */
const PROTOCOLS = [
  'v5.channel.k8s.io',
  'v4.channel.k8s.io',
  'v4.base64.channel.k8s.io',
  'channel.k8s.io',
  'base64.channel.k8s.io',
  '',
] as const;

/** The `remotecommand` protocol over a WebSocket: five fixed channels, all there from the start. */
export function openWebSocketCommand(upgrade: Upgrade, wanted: WantedStreams): Command {
  const { ws, protocol } = switchToWebSocket(upgrade, PROTOCOLS);
  const connection = new ChannelConnection(ws, {
    limits: upgrade.limits,
    base64: protocol.includes('base64'),
    closeSignal: protocol.startsWith('v5.'),
  });
  void connection.closed.then((reason) => upgrade.abort(reason));
  upgrade.signal.addEventListener('abort', () => connection.end(new ClassifiedError('cancelled', 'the session was ended')), { once: true });
  const open = (name: 'stdin' | 'stdout' | 'stderr'): ReturnType<ChannelConnection['open']> | undefined =>
    wanted[name] ? connection.open(CHANNEL[name]) : undefined;
  const [stdin, stdout, stderr] = [open('stdin'), open('stdout'), open('stderr')];
  const [error, resizeChannel] = [connection.open(CHANNEL.error), connection.open(CHANNEL.resize)];
  for (const output of [stdout, stderr, error]) output?.resume();
  const resize = new ResizeEvents();
  resizeChannel.on('data', (bytes: Buffer) => resize.push(bytes));
  connection.greet(stdout ?? stderr ?? error);

  const finish = async (outcome: Outcome): Promise<void> => {
    stdin?.destroy();
    resizeChannel.destroy();
    const end = async (stream: typeof stdout, text?: string): Promise<unknown> =>
      stream && finished(stream.end(text), { readable: false }).catch(() => {});
    await Promise.all([end(stdout), end(stderr)]);
    await end(error, /^v[45]/.test(protocol) ? jsonStatus(outcome) : plainStatus(outcome));
    await connection.close();
  };
  return { streams: { stdin, stdout, stderr, onResize: resize.onResize }, finish };
}
