import { messageOf } from '../base/errors.ts';
import type { Command, WantedStreams } from './command.ts';
import { openSpdyCommand } from './spdy/command.ts';
import type { Outcome } from './status.ts';
import type { ExecSession, StreamRuntime } from './stream-runtime.ts';
import type { Upgrade } from './upgrade.ts';
import { isWebSocket } from './upgrade.ts';
import { openWebSocketCommand } from './websocket/command.ts';

export interface ExecRequest extends ExecSession {
  readonly wanted: WantedStreams;
}

/** The client's streams, over the protocol that it asks for. */
export const openCommand = async (upgrade: Upgrade, wanted: WantedStreams): Promise<Command> =>
  isWebSocket(upgrade.request) ? openWebSocketCommand(upgrade, wanted) : openSpdyCommand(upgrade, wanted);

/** One exec session from the client's request until the client has closed. */
export async function serveExec(upgrade: Upgrade, runtime: StreamRuntime, { wanted, ...session }: ExecRequest): Promise<void> {
  const command = await openCommand(upgrade, wanted);
  let outcome: Outcome;
  try {
    outcome = { exitCode: await runtime.exec(upgrade.signal, session, command.streams) };
  } catch (error) {
    upgrade.log.info({ container: session.containerId, err: messageOf(error) }, 'exec failed');
    outcome = { error };
  }
  await command.finish(outcome);
}
