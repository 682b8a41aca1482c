import { closeSync, openSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { parentPort } from 'node:worker_threads';
import { errnoOf, messageOf } from '../base/errors.ts';
import type { NamespaceKind, NamespacesHolder, NamespacesJob, NamespacesRequest, NamespacesResult, SocketRequest } from './namespaces.ts';
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

// Only synchronous calls here: what an asynchronous one does happens in a thread of the pool, which is in the host's namespaces, or worse, was started
// from here and would stay in the pod's.
const FLAGS: Readonly<Record<NamespaceKind, number>> = { net: CLONE_NEWNET, ipc: CLONE_NEWIPC, uts: CLONE_NEWUTS };
const kinds = Object.keys(FLAGS) as NamespaceKind[];
const own = new Map(kinds.map((kind) => [kind, openSync(`/proc/thread-self/ns/${kind}`, 'r')]));

class SysctlError extends Error {
  readonly field: string;
  constructor(key: string, cause: unknown) {
    super(messageOf(cause));
    this.field = `config.linux.sysctls[${key}]`;
  }
}

function create({ dir, kinds: wanted, hostname, sysctls }: NamespacesRequest, holder: NamespacesHolder | undefined): void {
  try {
    if (holder === undefined) unshare(wanted.reduce((flags, kind) => flags | FLAGS[kind], 0));
    else for (const kind of wanted) join(`/proc/${holder.pid}/ns/${kind}`, FLAGS[kind]);
    if (wanted.includes('uts') && hostname !== undefined) sethostname(hostname);
    if (wanted.includes('net')) loopbackUp();
    writeSysctls(sysctls, holder?.rootUid);
    for (const kind of wanted) pin(`/proc/thread-self/ns/${kind}`, path.join(dir, kind));
    if (holder !== undefined) pin(`/proc/${holder.pid}/ns/user`, path.join(dir, 'user'));
  } finally {
    for (const kind of wanted) setns(own.get(kind) ?? -1, FLAGS[kind]);
  }
}

function adjust({ dir, kinds: wanted, hostname, sysctls }: NamespacesRequest): void {
  try {
    for (const kind of wanted) join(path.join(dir, kind), FLAGS[kind]);
    if (wanted.includes('uts') && hostname !== undefined) sethostname(hostname);
    writeSysctls(sysctls, undefined);
  } finally {
    for (const kind of wanted) setns(own.get(kind) ?? -1, FLAGS[kind]);
  }
}

function writeSysctls(sysctls: NamespacesRequest['sysctls'], rootUid: number | undefined): void {
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
    setns(own.get('net') ?? -1, CLONE_NEWNET);
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

parentPort?.on('message', (job: NamespacesJob) => {
  const answer = (result: Omit<NamespacesResult, 'id'>): void => parentPort?.postMessage({ id: job.id, ...result });
  try {
    answer(work(job));
  } catch (error) {
    answer(failure(error));
    // A thread that could not go back would make the next pod in this pod's namespaces.
    if (!isHome()) process.exit(1);
  }
});

function isHome(): boolean {
  try {
    for (const kind of kinds) setns(own.get(kind) ?? -1, FLAGS[kind]);
    return true;
  } catch {
    return false;
  }
}
