import { closeSync, rmSync } from 'node:fs';
import { watchFd } from './reactor.ts';
import { accept, listenUnix, receiveFd, unixStream } from './sockets.ts';

/**
 * Listens at `path` (at most 107 bytes, in a directory that only root enters) for an OCI runtime that sends the master of a new terminal (`--console-socket`).
 * `onMaster` gets it once and owns it. The result ends the wait and removes the socket; repeatable.
 */
export function awaitMaster(path: string, onMaster: (fd: number) => void): () => void {
  const listener = unixStream();
  let connection: number | undefined;
  let unwatch: () => void = () => undefined;
  let closed = false;
  const close = (): void => {
    if (closed) return;
    closed = true;
    unwatch();
    closeSync(listener);
    if (connection !== undefined) closeSync(connection);
    rmSync(path, { force: true });
  };
  const onMessage = (): void => {
    const fd = connection === undefined ? undefined : receive(connection);
    if (fd === undefined) unwatch = watchFd(connection ?? listener, onMessage);
    else {
      close();
      if (fd !== 'none') onMaster(fd);
    }
  };
  const onConnection = (): void => {
    connection = accept(listener);
    if (connection === undefined) unwatch = watchFd(listener, onConnection);
    else onMessage();
  };
  try {
    listenUnix(listener, path);
    unwatch = watchFd(listener, onConnection);
  } catch (error) {
    close();
    throw error;
  }
  return close;
}

/** A runtime that ended in the middle has sent nothing; its exit code tells. */
function receive(fd: number): number | 'none' | undefined {
  try {
    return receiveFd(fd);
  } catch {
    return 'none';
  }
}
