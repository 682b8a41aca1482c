import { closeSync, constants, openSync, readSync, rmSync, writeSync } from 'node:fs';
import { errnoOf } from '../base/errors.ts';
import type { Op } from '../base/op.ts';
import { orOver } from '../base/op.ts';
import type { ProcessRef } from '../os/process.ts';
import { watchFd, watchProcess } from '../os/reactor.ts';
import { isOver } from './proc-scan.ts';

/** What `start` does to the FIFO that init waits at: runc reads what init writes, crun writes what init reads. */
export type StartFifo = 'read' | 'write';

/**
 * Starts a created container as runc and crun do it themselves: init waits at `exec.fifo` among the runtime's state, and for `state` the container runs once that
 * is gone. 4 ms less than a process of the runtime for it. false: nothing has come of it, and the runtime has to be asked, if only for its words.
 */
export async function startByFifo(op: Op, path: string, how: StartFifo, init: ProcessRef): Promise<boolean> {
  if (isOver(init)) return false;
  const access = how === 'read' ? constants.O_RDONLY : constants.O_WRONLY;
  let fd: number;
  try {
    fd = openSync(path, access | constants.O_NONBLOCK);
  } catch (error) {
    // Started before, or nobody is at the other end.
    if (['ENOENT', 'ENXIO'].includes(errnoOf(error) ?? '')) return false;
    throw error;
  }
  using end = new DisposableStack();
  end.defer(() => closeSync(fd));
  // Before init can go on: if we end here, what is left looks started, and is.
  rmSync(path, { force: true });
  if (how === 'write') return isWritten(fd);
  const { promise: readable, resolve } = Promise.withResolvers<void>();
  end.defer(watchFd(fd, resolve));
  // It may have written its word and be at its end already.
  await orOver(op, Promise.race([readable, watchProcess(init)]));
  return readSync(fd, Buffer.alloc(1)) === 1;
}

function isWritten(fd: number): boolean {
  try {
    return writeSync(fd, '\0') === 1;
  } catch (error) {
    if (errnoOf(error) === 'EPIPE') return false;
    throw error;
  }
}
