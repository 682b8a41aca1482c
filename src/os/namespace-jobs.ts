import { closeSync, openSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { errnoOf, messageOf } from '../base/errors.ts';
import { streamSocket } from './sockets.ts';
import {
  AF_INET,
  CLONE_NEWIPC,
  CLONE_NEWNET,
  CLONE_NEWUTS,
  interfaceUp,
  mount2,
  MS,
  setns,
  sethostname,
  setThreadEuid,
  SOCK_DGRAM,
  socket,
  unshare,
} from './syscalls.ts';

export type NamespaceKind = 'net' | 'ipc' | 'uts';

export interface PinRequest {
  /** Each kind is pinned as `<dir>/<kind>`. */
  readonly dir: string;
  readonly kinds: readonly NamespaceKind[];
  readonly hostname?: string;
  /** Written from inside: only those that belong to one of `kinds` reach no further than the pod. */
  readonly sysctls?: Readonly<Record<string, string>>;
}

/** A stream socket that lives in the network namespace pinned at `netns`. */
export interface SocketRequest {
  readonly netns: string;
  /** AF_INET or AF_INET6. */
  readonly domain: number;
}

/** A process that has the namespaces already; its root is `rootUid` to us. */
export interface NamespacesHolder {
  readonly pid: number;
  readonly rootUid: number | undefined;
}

export type NamespacesJob =
  | { readonly id: number; readonly verb: 'create'; readonly request: PinRequest; readonly holder?: NamespacesHolder }
  | { readonly id: number; readonly verb: 'adjust'; readonly request: PinRequest }
  | { readonly id: number; readonly verb: 'socket'; readonly request: SocketRequest };
export type NamespacesResult = {
  readonly id: number;
  /** Of `socket`: the descriptor, from now on the receiver's. */
  readonly fd?: number;
  readonly error?: string;
  /** Of an error: its errno's name. */
  readonly code?: string;
  readonly field?: string;
};

// What os/namespaces asks of the thread that os/reactor-worker runs. Only synchronous calls here: what an asynchronous one does happens in a thread of the pool,
// which is in the host's namespaces, or worse, was started from here and would stay in the pod's.
const FLAGS: Readonly<Record<NamespaceKind, number>> = { net: CLONE_NEWNET, ipc: CLONE_NEWIPC, uts: CLONE_NEWUTS };
const kinds = Object.keys(FLAGS) as NamespaceKind[];
/** The thread's own, kept open from its first job on. */
let own: ReadonlyMap<NamespaceKind, number> | undefined;

class SysctlError extends Error {
  readonly field: string;
  constructor(key: string, cause: unknown) {
    super(messageOf(cause));
    this.field = `config.linux.sysctls[${key}]`;
  }
}

function goHome(from: readonly NamespaceKind[]): void {
  for (const kind of from) setns(own?.get(kind) ?? -1, FLAGS[kind]);
}

function create({ dir, kinds: wanted, hostname, sysctls }: PinRequest, holder: NamespacesHolder | undefined): void {
  try {
    if (holder === undefined) unshare(wanted.reduce((flags, kind) => flags | FLAGS[kind], 0));
    else for (const kind of wanted) join(`/proc/${holder.pid}/ns/${kind}`, FLAGS[kind]);
    if (wanted.includes('uts') && hostname !== undefined) sethostname(hostname);
    if (wanted.includes('net')) loopbackUp();
    writeSysctls(sysctls, holder?.rootUid);
    for (const kind of wanted) pin(`/proc/thread-self/ns/${kind}`, path.join(dir, kind));
    if (holder !== undefined) pin(`/proc/${holder.pid}/ns/user`, path.join(dir, 'user'));
  } finally {
    goHome(wanted);
  }
}

function adjust({ dir, kinds: wanted, hostname, sysctls }: PinRequest): void {
  try {
    for (const kind of wanted) join(path.join(dir, kind), FLAGS[kind]);
    if (wanted.includes('uts') && hostname !== undefined) sethostname(hostname);
    writeSysctls(sysctls, undefined);
  } finally {
    goHome(wanted);
  }
}

function writeSysctls(sysctls: PinRequest['sysctls'], rootUid: number | undefined): void {
  for (const [key, value] of Object.entries(sysctls ?? {})) writeSysctl(key, value, rootUid);
}

function join(namespace: string, flag: number): void {
  const fd = openSync(namespace, 'r');
  try {
    setns(fd, flag);
  } finally {
    closeSync(fd);
  }
}

/** A socket belongs to the namespace that it was made in. */
function socketIn({ netns, domain }: SocketRequest): number {
  try {
    join(netns, CLONE_NEWNET);
    return streamSocket(domain);
  } finally {
    goHome(['net']);
  }
}

function pin(namespace: string, target: string): void {
  closeSync(openSync(target, 'wx', 0o444));
  mount2(namespace, target, { type: '', flags: MS['bind'] ?? 0, data: '' });
}

function loopbackUp(): void {
  const fd = socket(AF_INET, SOCK_DGRAM);
  try {
    interfaceUp('lo', fd);
  } finally {
    closeSync(fd);
  }
}

// `net.ipv4.conf.eth0/1.x` style keys swap dots and slashes, as sysctl(8) does.
function writeSysctl(key: string, value: string, rootUid: number | undefined): void {
  const firstSeparator = /[./]/.exec(key)?.[0];
  const name = firstSeparator === '/' ? key : key.replace(/[./]/g, (separator) => (separator === '.' ? '/' : '.'));
  const write = (): void => writeFileSync(path.join('/proc/sys', name), value, { flag: 'r+' });
  try {
    try {
      write();
    } catch (error) {
      // The IPC namespace's files belong to the root of its user namespace (Linux 6.7), and no capability helps the host's.
      if (rootUid === undefined || errnoOf(error) !== 'EACCES') throw error;
      setThreadEuid(rootUid);
      try {
        write();
      } finally {
        setThreadEuid(0);
      }
    }
  } catch (error) {
    throw new SysctlError(key, error);
  }
}

function work(job: NamespacesJob): { fd?: number } {
  own ??= new Map(kinds.map((kind) => [kind, openSync(`/proc/thread-self/ns/${kind}`, 'r')]));
  if (job.verb === 'socket') return { fd: socketIn(job.request) };
  if (job.verb === 'adjust') adjust(job.request);
  else create(job.request, job.holder);
  return {};
}

function failure(error: unknown): Omit<NamespacesResult, 'id'> {
  const code = errnoOf(error);
  return {
    error: messageOf(error),
    ...(code === undefined ? {} : { code }),
    ...(error instanceof SysctlError ? { field: error.field } : {}),
  };
}

/** Done, or why not. Whether the thread is back in its own namespaces after a failure, `isHome` tells. */
export function runJob(job: NamespacesJob): NamespacesResult {
  try {
    return { id: job.id, ...work(job) };
  } catch (error) {
    return { id: job.id, ...failure(error) };
  }
}

/** Brings the thread back into its own namespaces; false when it can't go there. */
export function isHome(): boolean {
  try {
    goHome(kinds);
    return true;
  } catch {
    return false;
  }
}

/** The thread ends: nobody else closes what it has open. */
export function endJobs(): void {
  for (const fd of own?.values() ?? []) closeSync(fd);
}
