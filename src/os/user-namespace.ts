import { closeSync, writeFileSync } from 'node:fs';
import { Socket } from 'node:net';
import { ClassifiedError, wrap } from '../base/errors.ts';
import { newOp, orOver } from '../base/op.ts';
import { pipe, spawn } from './spawn.ts';

/** Ids `containerId`... of a user namespace are `hostId`... of the host's, `length` of them. */
export interface IdMapping {
  readonly containerId: number;
  readonly hostId: number;
  readonly length: number;
}

export interface UserMappings {
  readonly uids: readonly IdMapping[];
  readonly gids: readonly IdMapping[];
}

/** The host's id for one of the namespace; undefined when it has none there. */
export function hostIdOf(mappings: readonly IdMapping[], id: number): number | undefined {
  const found = mappings.find(({ containerId, length }) => id >= containerId && id - containerId < length);
  return found && found.hostId + (id - found.containerId);
}

/** A process that is alone in a new user namespace and in others that this one owns, until it is disposed of. */
export interface NamespaceHolder extends AsyncDisposable {
  readonly pid: number;
}

const TIMEOUT_MS = 10_000;
const SIGKILL = 9;

/**
 * `kinds` are the others, as unshare(1) calls them. A thread can't enter a user namespace, so a process makes it (DESIGN 3.3). It ends by itself when we do: it waits at a pipe of ours.
 * failedPrecondition with the kernel's words where user namespaces are turned off.
 */
export async function holdUserNamespace(kinds: readonly string[], mappings: UserMappings): Promise<NamespaceHolder> {
  const op = newOp('user namespace', { timeoutMs: TIMEOUT_MS });
  const input = pipe();
  const output = pipe();
  const errors = pipe();
  let child: ReturnType<typeof spawn>;
  try {
    // cat answers from inside: what it says back was read after unshare(2).
    const argv = ['unshare', '--user', ...kinds.map((kind) => `--${kind}`), 'cat'];
    child = spawn({ argv, stdin: input.read, stdout: output.write, stderr: errors.write });
  } catch (error) {
    for (const fd of [input.write, output.read, errors.read]) closeSync(fd);
    throw error;
  } finally {
    for (const fd of [input.read, output.write, errors.write]) closeSync(fd);
  }
  const stdin = new Socket({ fd: input.write, readable: false, writable: true });
  stdin.on('error', () => undefined);
  const end = async (): Promise<void> => {
    child.kill(SIGKILL);
    stdin.destroy();
    await child.exited;
  };
  try {
    stdin.write('\n');
    await orOver(op, firstByte(output.read, errors.read));
    writeFileSync(`/proc/${child.pid}/uid_map`, lines(mappings.uids));
    writeFileSync(`/proc/${child.pid}/gid_map`, lines(mappings.gids));
  } catch (error) {
    await end();
    throw wrap('create user namespace', error);
  }
  return { pid: child.pid, [Symbol.asyncDispose]: end };
}

const lines = (mappings: readonly IdMapping[]): string =>
  mappings.map(({ containerId, hostId, length }) => `${containerId} ${hostId} ${length}\n`).join('');

/** Closes both descriptors. Fails with what came from `errorsFd` when `fd` ends without a byte. */
async function firstByte(fd: number, errorsFd: number): Promise<void> {
  const output = new Socket({ fd, readable: true, writable: false });
  const errors = new Socket({ fd: errorsFd, readable: true, writable: false });
  let words = '';
  errors.on('data', (chunk: Buffer) => (words = `${words}${chunk.toString('utf8')}`.slice(0, 1000)));
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  const failed = (): void => reject(new ClassifiedError('failedPrecondition', words.trim() || 'the process that makes it ended at once'));
  output.once('data', () => resolve());
  output.on('error', failed);
  // Its last words arrive with the end of the other pipe.
  output.once('end', () => (errors.readableEnded ? failed() : errors.once('close', failed)));
  errors.on('error', () => undefined);
  try {
    await promise;
  } finally {
    output.destroy();
    errors.destroy();
  }
}
