import { getPriority } from 'node:os';
import { threadId } from 'node:worker_threads';
import { serveStarter } from '../../src/os/threads.ts';

/** To any message. */
export interface PoliteReply {
  readonly priority: number;
  readonly threadId: number;
}

// A thread that tells what its priority is.

serveStarter((_message, tell) => tell({ priority: getPriority(), threadId } satisfies PoliteReply));
