import { randomInt } from 'node:crypto';
import { writeFileSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { assert } from '../base/assert.ts';
import { ClassifiedError } from '../base/errors.ts';
import type { Op } from '../base/op.ts';
import { run } from './spawn.ts';
import { setXattr } from './syscalls.ts';

/** `user:role:type:level` of a container's processes and of its files. */
export interface SelinuxLabels {
  readonly process: string;
  readonly mount: string;
}

/** Parts that somebody wants otherwise; "" leaves one as it is. */
export interface SelinuxOptions {
  readonly user: string;
  readonly role: string;
  readonly type: string;
  readonly level: string;
}

const SELINUXFS = '/sys/fs/selinux';

/**
 * The labels that this machine's policy has for containers (`contexts/lxc_contexts`). undefined: the kernel has no SELinux, or the policy knows no containers
 * (Debian's names labels whose types it lacks), and then nothing is labelled: an unknown type would only keep every container from starting.
 */
export async function selinuxDefaults(options: { etc?: string; fs?: string } = {}): Promise<SelinuxLabels | undefined> {
  const { etc = '/etc/selinux', fs = SELINUXFS } = options;
  const read = (path: string): Promise<string> => readFile(path, 'utf8').catch(() => '');
  if ((await read(join(fs, 'enforce'))) === '') return undefined;
  const policy = /^\s*SELINUXTYPE\s*=\s*([\w-]+)\s*$/m.exec(await read(join(etc, 'config')))?.[1] ?? 'targeted';
  const labels = parseContexts(await read(join(etc, policy, 'contexts/lxc_contexts')));
  return labels !== undefined && knowsLabel(labels.process, fs) && knowsLabel(labels.mount, fs) ? labels : undefined;
}

/** Is it a label of the policy that is loaded? */
export function knowsLabel(label: string, fs = SELINUXFS): boolean {
  try {
    writeFileSync(join(fs, 'context'), `${label}\0`, { flag: 'r+' });
    return true;
  } catch {
    return false;
  }
}

/** `process = "..."` and `file = "..."`; other lines are of no concern here. */
export function parseContexts(text: string): SelinuxLabels | undefined {
  const label = (key: string): string | undefined => new RegExp(`^\\s*${key}\\s*=\\s*"?([^"\\s#]+)"?\\s*(?:#.*)?$`, 'm').exec(text)?.[1];
  const [process, mount] = [label('process'), label('file')];
  return process === undefined || mount === undefined ? undefined : { process, mount };
}

const CATEGORIES = 1024;

/** A pair of categories that nobody in `used` has: who has another can't reach what has this one. */
export function freeLevel(used: ReadonlySet<string>): string {
  // Half a million pairs, some hundred pods.
  assert(used.size < (CATEGORIES * (CATEGORIES - 1)) / 4, 'levels are left');
  for (;;) {
    const [a, b] = [randomInt(CATEGORIES), randomInt(CATEGORIES)];
    const level = `s0:c${Math.min(a, b)},c${Math.max(a, b)}`;
    if (a !== b && !used.has(level)) return level;
  }
}

/** `base` with what `options` want otherwise. Files follow in user and level only: their type is what every container may be given. */
export function withOptions(base: SelinuxLabels, options: SelinuxOptions): SelinuxLabels {
  const { user, role, type, level } = options;
  return { process: changed(base.process, [user, role, type, level]), mount: changed(base.mount, [user, '', '', level]) };
}

function changed(label: string, wanted: readonly string[]): string {
  const [user = '', role = '', type = '', ...level] = label.split(':');
  return [user, role, type, level.join(':')].map((part, index) => wanted[index] || part).join(':');
}

/** Of mount(2): every file of the filesystem has this label. The quotes are for the comma between categories. */
export const contextOption = (label: string): string => `context="${label}"`;

/** Of a file of ours. */
export const labelFile = (path: string, label: string): number => setXattr(path, 'security.selinux', Buffer.from(`${label}\0`));

/** Directories that programs of the host live in: relabelled for a container they would be of no use to the host (CVE-2021-43816). */
const NEVER_RELABELLED: ReadonlySet<string> = new Set(
  '/ /bin /boot /dev /etc /etc/passwd /etc/pki /etc/shadow /home /lib /lib64 /media /mnt /opt /proc /root /run /sbin /srv /sys /tmp /usr /usr/bin /usr/lib /usr/sbin /var /var/lib /var/log /var/run'.split(
    ' ',
  ),
);

/**
 * Labels `path` and all below it, by processes that are killed when the operation ends: a pod chose the path (R2), and it may be long. Symlinks are labelled, not
 * followed; a filesystem without labels is left as it is. failedPrecondition.
 */
export async function relabel(op: Op, path: string, label: string): Promise<void> {
  if (NEVER_RELABELLED.has(path)) throw new ClassifiedError('failedPrecondition', `relabelling ${path} would take it from the host`);
  if (await chcon(op, ['--', label, path], UNSUPPORTED)) await chcon(op, ['--recursive', '-P', '--', label, path], UNSUPPORTED_OR_GONE);
}

const UNSUPPORTED = /: Operation not supported$/;
/** Of what is below, another program may remove some meanwhile. */
const UNSUPPORTED_OR_GONE = /: (?:Operation not supported|No such file or directory)$/;

/** false: it complained, but only of what is `forgiven`. */
async function chcon(op: Op, args: readonly string[], forgiven: RegExp): Promise<boolean> {
  const { exitCode, stderr } = await run(op, { argv: ['chcon', '--no-dereference', ...args] });
  if (exitCode === 0) return true;
  const words = stderr.toString('utf8').trim();
  if (words.split('\n').every((line) => forgiven.test(line))) return false;
  throw new ClassifiedError('failedPrecondition', words.slice(-500));
}
