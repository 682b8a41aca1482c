import { closeSync, fstatSync, openSync, readSync } from 'node:fs';
import { ClassifiedError, invalidArgument } from '../base/errors.ts';
import { openInRoot } from '../os/in-root.ts';
import { O_DIRECTORY, O_NONBLOCK, O_PATH } from '../os/syscalls.ts';

/** Of passwd and group files (S3): an image may not make us read for ever. */
const MAX_FILE_BYTES = 10 * 1024 * 1024;
const MAX_ID = 0xffff_fffe;

export interface PasswdEntry {
  readonly name: string;
  readonly uid: number;
  readonly gid: number;
}

export interface GroupEntry {
  readonly name: string;
  readonly gid: number;
  readonly members: readonly string[];
}

const idOf = (text: string | undefined): number | undefined =>
  text !== undefined && /^\d{1,10}$/.test(text) && Number(text) <= MAX_ID ? Number(text) : undefined;

/** passwd(5); lines that are not of its form are skipped. */
export function parsePasswd(text: string): PasswdEntry[] {
  return text.split('\n').flatMap((line) => {
    const [name = '', , uidText, gidText] = line.split(':');
    const [uid, gid] = [idOf(uidText), idOf(gidText)];
    return name === '' || uid === undefined || gid === undefined ? [] : [{ name, uid, gid }];
  });
}

/** group(5). */
export function parseGroup(text: string): GroupEntry[] {
  return text.split('\n').flatMap((line) => {
    const [name = '', , gidText, members = ''] = line.split(':');
    const gid = idOf(gidText);
    return name === '' || gid === undefined ? [] : [{ name, gid, members: members.split(',').filter(Boolean) }];
  });
}

export interface UserRequest {
  readonly runAsUser: string | undefined;
  readonly runAsGroup: string | undefined;
  readonly runAsUsername: string;
  /** `USER` of the image: `name`, `uid`, `name:group`, `uid:gid`. A hostile value. */
  readonly imageUser: string;
  readonly supplementalGroups: readonly string[];
  /** Merge: also the groups that the image's /etc/group gives the user. */
  readonly policy: 'Merge' | 'Strict';
}

export interface ResolvedUser {
  readonly uid: number;
  readonly gid: number;
  readonly additionalGids: readonly number[];
}

/**
 * Who the process runs as (S4). Digits are an id and never looked up as a name, so a number too large is an error and not root. The primary group is the asked one,
 * else the image's, else the user's in passwd, else 0; it is always among the additional ones. invalidArgument: a name that the image lacks.
 */
export function resolveUser(request: UserRequest, files: { passwd: string; group: string }): ResolvedUser {
  const passwd = parsePasswd(files.passwd);
  const groups = parseGroup(files.group);
  const [imageUser = '', imageGroup = ''] = request.imageUser.split(':', 2);
  const asked = request.runAsUser ?? (request.runAsUsername === '' ? undefined : request.runAsUsername);
  const field =
    request.runAsUser !== undefined ? 'run_as_user' : request.runAsUsername !== '' ? 'run_as_username' : 'the user of the image';
  const text = asked ?? (imageUser === '' ? '0' : imageUser);
  const number = numeric(text, field);
  const entry = passwd.find((each) => (number === undefined ? each.name === text : each.uid === number));
  const uid = number ?? entry?.uid;
  if (uid === undefined) throw invalidArgument(field, `no user ${JSON.stringify(text)} in the image's passwd file`);
  // The image's group goes with the image's user.
  const groupText = request.runAsGroup ?? (asked === undefined && imageGroup !== '' ? imageGroup : undefined);
  const gid = groupText === undefined ? (entry?.gid ?? 0) : groupId(groupText, groups);
  const fromImage =
    request.policy === 'Merge' && entry !== undefined
      ? groups.filter(({ members }) => members.includes(entry.name)).map((each) => each.gid)
      : [];
  const supplemental = request.supplementalGroups.map((each) => numeric(each, 'supplemental_groups') ?? 0);
  return { uid, gid, additionalGids: [...new Set([gid, ...supplemental, ...fromImage])] };
}

function numeric(text: string, field: string): number | undefined {
  if (!/^[+-]?\d+$/.test(text)) return undefined;
  const id = idOf(text);
  if (id === undefined) throw invalidArgument(field, `${text.slice(0, 40)} is not a user or group id`);
  return id;
}

function groupId(text: string, groups: readonly GroupEntry[]): number {
  const gid = numeric(text, 'the group of the image') ?? groups.find(({ name }) => name === text)?.gid;
  if (gid === undefined) throw invalidArgument('the group of the image', `no group ${JSON.stringify(text)} in the image's group file`);
  return gid;
}

/**
 * A small file of a mounted rootfs, resolved inside it whatever symlinks the image has (S2); "" when missing. Regular files only.
 * resourceExhausted above 10 MiB.
 */
export function readRootfsFile(rootfs: string, path: string): string {
  const root = openSync(rootfs, O_PATH | O_DIRECTORY);
  let fd: number | undefined;
  try {
    // A FIFO or a device would block an open without O_NONBLOCK.
    fd = openInRoot(root, path, O_NONBLOCK);
    if (fd === undefined) return '';
    const stat = fstatSync(fd);
    if (!stat.isFile()) throw new ClassifiedError('failedPrecondition', `${path} of the image is not a regular file`);
    if (stat.size > MAX_FILE_BYTES)
      throw new ClassifiedError('resourceExhausted', `${path} of the image has ${stat.size} bytes, the limit is ${MAX_FILE_BYTES}`);
    const bytes = Buffer.alloc(stat.size);
    let length = 0;
    for (let read = 1; read > 0 && length < bytes.length; length += read) read = readSync(fd, bytes, length, bytes.length - length, null);
    return bytes.toString('utf8', 0, length);
  } finally {
    closeSync(root);
    if (fd !== undefined) closeSync(fd);
  }
}
