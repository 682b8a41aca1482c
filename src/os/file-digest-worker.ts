import { createHash } from 'node:crypto';
import { closeSync, openSync, readSync } from 'node:fs';
import { errnoOf, messageOf } from '../base/errors.ts';
import { serveStarter } from './threads.ts';

export interface FileDigestJob {
  readonly path: string;
  /** Only so many from the beginning; undefined: all. */
  readonly sizeBytes: number | undefined;
}

/** `read`: as many bytes as there are of those. */
export type FileDigestReply =
  { readonly sha256: string; readonly read: number } | { readonly error: string; readonly code: string | undefined };

const READ_BYTES = 1 << 20;
const clock = new Int32Array(new SharedArrayBuffer(4));

function digest({ path, sizeBytes }: FileDigestJob): FileDigestReply {
  const buffer = Buffer.allocUnsafe(READ_BYTES);
  const hash = createHash('sha256');
  const fd = openSync(path, 'r');
  try {
    let at = 0;
    for (;;) {
      const beganAtMs = performance.now();
      const read = readSync(fd, buffer, 0, Math.min(READ_BYTES, (sizeBytes ?? Infinity) - at), at);
      if (read === 0) return { sha256: hash.digest('hex'), read: at };
      hash.update(buffer.subarray(0, read));
      at += read;
      // Half of the disk and of a processor is left to those who are in a hurry.
      Atomics.wait(clock, 0, 0, performance.now() - beganAtMs);
    }
  } finally {
    closeSync(fd);
  }
}

serveStarter<FileDigestJob>((job, tell) => {
  try {
    tell(digest(job));
  } catch (error) {
    tell({ error: messageOf(error), code: errnoOf(error) } satisfies FileDigestReply);
  }
});
