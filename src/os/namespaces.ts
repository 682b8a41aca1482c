import { rmSync, statfsSync } from 'node:fs';
import { mkdir, readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { assert } from '../base/assert.ts';
import { ClassifiedError, invalidArgument, notFound } from '../base/errors.ts';
import { umount } from './mount.ts';
import type { NamespaceKind, NamespacesJob, PinRequest, SocketRequest } from './namespace-jobs.ts';
import { askThread } from './reactor.ts';
import type { UserMappings } from './user-namespace.ts';
import { holdUserNamespace, hostIdOf } from './user-namespace.ts';

export type { NamespaceKind } from './namespace-jobs.ts';

export interface NamespacesRequest extends PinRequest {
  /** Of a new user namespace that owns the others, pinned as `<dir>/user`. */
  readonly user?: UserMappings;
}

const NO_FD = -1;

let nextId = 1;

/** One thread does everything that changes the namespaces of the thread that does it. */
async function ask(job: NamespacesJob): Promise<number> {
  const { fd = NO_FD, error, code, field } = await askThread(job);
  if (error === undefined) return fd;
  if (field !== undefined) throw invalidArgument(field, error);
  throw new ClassifiedError('internal', error, code === undefined ? {} : { detail: { code } });
}

/**
 * A non-blocking, unconnected TCP socket of another network namespace: what it connects to afterwards is there, whichever thread does it. The caller owns the
 * descriptor. notFound when nothing is pinned at `netns`.
 */
export async function socketIn(request: SocketRequest): Promise<number> {
  try {
    return await ask({ id: nextId++, verb: 'socket', request });
  } catch (error) {
    if (error instanceof ClassifiedError && error.detail?.['code'] === 'ENOENT') throw notFound('network namespace', request.netns);
    throw error;
  }
}

const SYSCTL_KEY = /^[A-Za-z0-9_-]+([./][A-Za-z0-9_-]+)+$/;
/** Which kind of namespace a sysctl belongs to; what belongs to none would be set for the whole node. */
const SYSCTL_KINDS: ReadonlyArray<readonly [RegExp, NamespaceKind]> = [
  [/^net\./, 'net'],
  [/^kernel\.(sem[a-z_]*|shm[a-z_]+|msg[a-z_]+)$/, 'ipc'],
  [/^fs\.mqueue\./, 'ipc'],
  [/^kernel\.domainname$/, 'uts'],
];

function checkSysctl(key: string, value: string, kinds: readonly NamespaceKind[]): void {
  const refused = (why: string): Error => invalidArgument(`config.linux.sysctls[${key}]`, why);
  if (!SYSCTL_KEY.test(key) || /[\0\n]/.test(value)) throw refused('not a valid sysctl');
  const kind = SYSCTL_KINDS.find(([pattern]) => pattern.test(key.replaceAll('/', '.')))?.[1];
  if (kind === undefined) throw refused('not a namespaced sysctl');
  if (!kinds.includes(kind)) throw refused(`would be set for the node: the pod has no ${kind} namespace of its own`);
}

/**
 * New network, IPC, UTS and user namespaces without a process in them: pinned by bind mounts, `lo` up, hostname and sysctls set. A failure leaves nothing.
 * invalidArgument: a sysctl that does not exist, reaches beyond these namespaces or is refused by the kernel. alreadyExists: `dir` pins namespaces already, and
 * goes on to. failedPrecondition: the kernel makes no user namespaces.
 */
export async function createNamespaces(request: NamespacesRequest): Promise<void> {
  assert(request.kinds.length > 0 || request.user !== undefined, 'at least one namespace is asked for');
  for (const [key, value] of Object.entries(request.sysctls ?? {})) checkSysctl(key, value, request.kinds);
  // Also the first work for libuv's pool, before that thread is ever elsewhere: threads that it started there would stay in a pod's namespaces.
  await mkdir(request.dir, { recursive: true, mode: 0o700 });
  if ((await readdir(request.dir)).length > 0) throw new ClassifiedError('alreadyExists', `create namespaces: ${request.dir} is not empty`);
  try {
    if (request.user === undefined) return void (await ask({ id: nextId++, verb: 'create', request }));
    await using process = await holdUserNamespace(request.kinds, request.user);
    const holder = { pid: process.pid, rootUid: hostIdOf(request.user.uids, 0) };
    await ask({ id: nextId++, verb: 'create', request, holder });
  } catch (error) {
    await removeNamespaces(request.dir);
    throw error;
  }
}

/**
 * Gives namespaces that `createNamespaces` pinned without them a hostname and sysctls, which are refused as there; of `net` they get none any more. A failure
 * may leave some of it done.
 */
export async function adjustNamespaces(request: PinRequest): Promise<void> {
  const kinds = request.kinds.filter((kind) => kind !== 'net');
  for (const [key, value] of Object.entries(request.sysctls ?? {})) checkSysctl(key, value, kinds);
  await ask({ id: nextId++, verb: 'adjust', request: { ...request, kinds } });
}

const NSFS_MAGIC = 0x6e736673;

/** Whether `path` holds a namespace. After a reboot, or when the state directory was wiped, it is missing or an empty file. */
export function isPinned(path: string): boolean {
  try {
    return statfsSync(path).type === NSFS_MAGIC;
  } catch {
    return false;
  }
}

/** Unpins whatever `dir` holds and removes it. Idempotent; the namespaces end with their last process. */
export async function removeNamespaces(dir: string): Promise<void> {
  const names = await readdir(dir).catch(() => []);
  for (const name of names) await umount(join(dir, name), { detach: true });
  rmSync(dir, { recursive: true, force: true });
}
