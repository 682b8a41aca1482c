import { messageOf } from '../base/errors.ts';
import type { Command, WantedStreams } from './command.ts';
import { openSpdyCommand } from './spdy/command.ts';
import type { Outcome } from './status.ts';
import type { ExecSession, StreamRuntime } from './stream-runtime.ts';
import type { Upgrade } from './upgrade.ts';

export interface ExecRequest extends ExecSession {
  readonly wanted: WantedStreams;
}

export const openCommand = async (upgrade: Upgrade, wanted: WantedStreams): Promise<Command> => openSpdyCommand(upgrade, wanted);

/** One exec session from the client's request to its last byte. Rejects when the client goes before the command's end. */
export async function serveExec(upgrade: Upgrade, runtime: StreamRuntime, request: ExecRequest): Promise<void> {
  const { wanted, ...session } = request;
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
