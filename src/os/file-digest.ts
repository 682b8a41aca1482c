import type { Digest } from '../base/digest.ts';
import type { Op } from '../base/op.ts';
import { throwIfOver } from '../base/op.ts';
import type { FileDigestJob, FileDigestReply } from './file-digest-worker.ts';
import { Threads } from './threads.ts';

const threads = new Threads(new URL('./file-digest-worker', import.meta.url), 1);

/**
 * Whether a file, or its first `sizeBytes`, is what `digest` says: read by a thread that takes its time. No file: it is not. Nor is one
 * that the disk can't read. Other errors have their errno. An op that is over ends it.
 */
export async function hasDigest(
  op: Op,
  path: string,
  { digest, sizeBytes }: { digest: Digest; sizeBytes?: number | undefined },
): Promise<boolean> {
  throwIfOver(op);
  const thread = threads.take();
  op.signal.addEventListener('abort', thread.stop, { once: true });
  let reply: FileDigestReply | undefined;
  try {
    reply = await new Promise<FileDigestReply | undefined>((resolve, reject) => {
      thread.listen((message) => resolve(message as FileDigestReply));
      void thread.ended.then((error) => (error === undefined ? resolve(undefined) : reject(error)));
      thread.post({ path, sizeBytes } satisfies FileDigestJob);
    });
  } finally {
    op.signal.removeEventListener('abort', thread.stop);
    if (reply === undefined) thread.stop();
    else thread.release();
  }
  throwIfOver(op);
  if (reply === undefined) throw new Error(`the thread that reads ${path} ended`);
  if (!('error' in reply)) return `sha256:${reply.sha256}` === digest && (sizeBytes === undefined || reply.read === sizeBytes);
  if (reply.code === 'ENOENT' || reply.code === 'EIO') return false;
  throw Object.assign(new Error(reply.error), { code: reply.code });
}
