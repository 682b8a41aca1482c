import { messageOf } from '../base/errors.ts';
import type { WantedStreams } from './command.ts';
import { openCommand } from './exec.ts';
import type { Outcome } from './status.ts';
import type { AttachSession, StreamRuntime } from './stream-runtime.ts';
import type { Upgrade } from './upgrade.ts';

export interface AttachRequest extends AttachSession {
  readonly wanted: WantedStreams;
}

/** One attach session. The container's own exit code is none of it: an end of the container is success. */
export async function serveAttach(upgrade: Upgrade, runtime: StreamRuntime, { wanted, ...session }: AttachRequest): Promise<void> {
  const command = await openCommand(upgrade, wanted);
  let outcome: Outcome = { exitCode: 0 };
  try {
    await runtime.attach(upgrade.signal, session, command.streams);
  } catch (error) {
    upgrade.log.info({ container: session.containerId, err: messageOf(error) }, 'attach failed');
    outcome = { error };
  }
  await command.finish(outcome);
}
