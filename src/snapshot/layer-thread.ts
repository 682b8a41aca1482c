import { availableParallelism } from 'node:os';
import type { Transferable } from 'node:worker_threads';
import type { ErrorKind } from '../base/errors.ts';
import { messageOf } from '../base/errors.ts';
import type { Op } from '../base/op.ts';
import { serveStarter, Threads } from '../os/threads.ts';

/** A thread for one job: how it ends. Descriptors of the job are the starter's to close, but not before `ended`. */
interface LayerThread<Reply> {
  /** Its one message; undefined when it ended without. Rejects with what it threw. */
  readonly reply: Promise<Reply | undefined>;
  /** It does nothing for this job any more. */
  readonly ended: Promise<void>;
  stop(): void;
}

const pools = new Map<string, Threads>();

/** `script`: the worker's module, without extension. Threads whose job succeeded do others after it. */
function startLayerThread<Reply extends object>(script: URL, job: unknown, transfer: readonly Transferable[]): LayerThread<Reply> {
  let pool = pools.get(script.href);
  if (pool === undefined) pools.set(script.href, (pool = new Threads(script, availableParallelism() + 2)));
  const thread = pool.take();
  const { promise, resolve, reject } = Promise.withResolvers<Reply | undefined>();
  promise.catch(() => undefined);
  const { promise: ended, resolve: end } = Promise.withResolvers<void>();
  let isOver = false;
  thread.listen((reply) => {
    resolve(reply as Reply);
    if ('error' in (reply as Reply)) return thread.stop();
    isOver = true;
    thread.release();
    end();
  });
  void thread.ended.then((error) => {
    if (error === undefined) resolve(undefined);
    else reject(error);
    end();
  });
  thread.post(job, transfer);
  return { reply: promise, ended, stop: () => (isOver ? undefined : thread.stop()) };
}

/** One job to its end; the thread is gone, or works for others, when it resolves. An op that is over ends it. */
export async function runLayerJob<Reply extends object>(
  op: Op,
  script: URL,
  { job, transfer }: { job: unknown; transfer: readonly Transferable[] },
): Promise<Reply | LayerJobError> {
  const thread = startLayerThread<Reply>(script, job, transfer);
  op.signal.addEventListener('abort', thread.stop, { once: true });
  if (op.signal.aborted) thread.stop();
  try {
    const reply = await thread.reply.catch((error: unknown) => ({ error: messageOf(error), kind: 'internal' as const }));
    return reply ?? { error: 'the thread of a layer ended', kind: 'internal' };
  } finally {
    op.signal.removeEventListener('abort', thread.stop);
    await thread.ended;
  }
}

export interface LayerJobError {
  readonly error: string;
  readonly kind: ErrorKind;
  /** The program that it wrote to has ended, and knows more. */
  readonly tarIsGone?: boolean;
}

/** The other side: what a thread's module does with its jobs. `work` never rejects. */
export function doLayerJobs<Job>(work: (job: Job) => Promise<object>): void {
  serveStarter<Job>((job, tell) => void work(job).then(tell));
}
