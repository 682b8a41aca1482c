import { mkdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { readdir } from 'node:fs/promises';
import { Worker } from 'node:worker_threads';
import { assert } from '../base/assert.ts';
import { ClassifiedError, invalidArgument } from '../base/errors.ts';
import { umount } from './mount.ts';

export type NamespaceKind = 'net' | 'ipc' | 'uts';

export interface NamespacesRequest {
  /** Each kind is pinned as `<dir>/<kind>`. */
  readonly dir: string;
  readonly kinds: readonly NamespaceKind[];
  readonly hostname?: string;
  /** Written from inside: only those that belong to one of `kinds` reach no further than the pod. */
  readonly sysctls?: Readonly<Record<string, string>>;
}

/** To the worker and back. */
export interface NamespacesJob {
  readonly id: number;
  readonly request: NamespacesRequest;
}
export type NamespacesResult = { readonly id: number; readonly error?: string; readonly field?: string };

interface Pending {
  resolve: () => void;
  reject: (error: Error) => void;
}

let worker: Worker | undefined;
let nextId = 1;
const pending = new Map<number, Pending>();

// One thread for everything that changes the namespaces of the thread that does it. It ends itself when it can't go back to its own.
function namespaceWorker(): Worker {
  if (worker) return worker;
  const extension = import.meta.url.endsWith('.ts') ? 'ts' : 'js';
  const started = new Worker(new URL(`./namespaces-worker.${extension}`, import.meta.url), {
    resourceLimits: { maxYoungGenerationSizeMb: 2 },
    trackUnmanagedFds: false,
    execArgv: [],
  });
  started.on('message', ({ id, error, field }: NamespacesResult) => {
    const job = pending.get(id);
    pending.delete(id);
    if (pending.size === 0) started.unref();
    if (error === undefined) job?.resolve();
    else job?.reject(field === undefined ? new ClassifiedError('internal', error) : invalidArgument(field, error));
  });
  started.on('error', (error) => failAll(started, error instanceof Error ? error : new Error(String(error))));
  started.on('exit', () => failAll(started, new Error('the namespace worker ended')));
  started.unref();
  worker = started;
  return started;
}

function failAll(from: Worker, error: Error): void {
  if (worker !== from) return;
  worker = undefined;
  for (const job of pending.values()) job.reject(error);
  pending.clear();
}

const SYSCTL_KEY = /^[A-Za-z0-9_-]+([./][A-Za-z0-9_-]+)+$/;

/**
 * New network, IPC and UTS namespaces without a process in them: pinned by bind mounts, `lo` up, hostname and sysctls set. A failure leaves nothing.
 * invalidArgument: a sysctl that does not exist or that the kernel refuses.
 */
export async function createNamespaces(request: NamespacesRequest): Promise<void> {
  for (const [key, value] of Object.entries(request.sysctls ?? {})) {
    if (!SYSCTL_KEY.test(key) || /[\0\n]/.test(value)) throw invalidArgument(`config.linux.sysctls[${key}]`, 'not a valid sysctl');
  }
  assert(request.kinds.length > 0, 'at least one namespace is asked for');
  await mkdir(request.dir, { recursive: true, mode: 0o700 });
  const id = nextId++;
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  const thread = namespaceWorker();
  pending.set(id, { resolve, reject });
  thread.ref();
  thread.postMessage({ id, request } satisfies NamespacesJob);
  try {
    await promise;
  } catch (error) {
    await removeNamespaces(request.dir);
    throw error;
  }
}

/** Unpins whatever `dir` holds and removes it. Idempotent; the namespaces end with their last process. */
export async function removeNamespaces(dir: string): Promise<void> {
  const names = await readdir(dir).catch(() => []);
  for (const name of names) await umount(join(dir, name), { detach: true });
  await rm(dir, { recursive: true, force: true });
}
