import { ClassifiedError } from '../../base/errors.ts';

/** Blocks of 512 bytes (POSIX.1-2008 pax interchange format; GNU tar manual, "Basic Tar Format"). */
export const BLOCK_BYTES = 512;

/**
 * One entry's header. Names and link targets are byte strings (latin1): archives carry bytes, not text. `type` is the typeflag as it stands
 * in the archive, `0` for the NUL of old archives.
 */
export interface TarHeader {
  readonly name: string;
  readonly type: string;
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
  readonly sizeBytes: number;
  /** Seconds since the epoch, as decimal text: a double can't carry the nanoseconds of a PAX time. */
  readonly mtime: string;
  readonly linkName: string;
  readonly devMajor: number;
  readonly devMinor: number;
  /** Extended attributes by name, values as byte strings. */
  readonly xattrs: ReadonlyMap<string, string>;
}

export const corrupt = (why: string): ClassifiedError => new ClassifiedError('dataLoss', `read layer tar: ${why}`);

/** The first byte tells nearly always. */
export const isZeroBlock = (block: Buffer): boolean => block[0] === 0 && block.every((byte) => byte === 0);

const CHECKSUM_AT = 148;
const CHECKSUM_BYTES = 8;
const SPACE = 32;
const ZERO = 48;

/** Sum of all bytes with the checksum field as blanks. */
function sumOf(block: Buffer): number {
  let sum = CHECKSUM_BYTES * SPACE;
  for (let i = 0; i < CHECKSUM_AT; i++) sum += block[i] ?? 0;
  for (let i = CHECKSUM_AT + CHECKSUM_BYTES; i < BLOCK_BYTES; i++) sum += block[i] ?? 0;
  return sum;
}

/** Old tars summed signed chars. */
const signedSumOf = (block: Buffer): number =>
  block.reduce((sum, byte, i) => (byte > 127 && (i < CHECKSUM_AT || i >= CHECKSUM_AT + CHECKSUM_BYTES) ? sum - 256 : sum), sumOf(block));

function text(block: Buffer, at: number, length: number): string {
  let end = at;
  // A field is short: to look for its end takes less than a call of indexOf.
  while (end < at + length && block[end] !== 0) end++;
  return end === at ? '' : block.toString('latin1', at, end);
}

function isText(block: Buffer, at: number, wanted: string): boolean {
  for (let i = 0; i < wanted.length; i++) if (block[at + i] !== wanted.charCodeAt(i)) return false;
  return true;
}

/** Octal digits with blanks or NUL behind them, as all programs write it, or GNU's base-256 when the top bit is set. Empty: 0. */
function number(block: Buffer, at: number, length: number): number {
  const last = at + length;
  let end = at;
  while (end < last && block[end] === SPACE) end++;
  let value = 0;
  for (let digit = (block[end] ?? 0) - ZERO; digit >= 0 && digit < 8 && end < last; digit = (block[++end] ?? 0) - ZERO)
    value = value * 8 + digit;
  while (end < last && block[end] === SPACE) end++;
  if (end === last || block[end] === 0) return value;
  if (block[at]! & 0x80) return base256(block, at, length);
  throw corrupt(`${JSON.stringify(text(block, at, length))} is not an octal number`);
}

function base256(block: Buffer, at: number, length: number): number {
  let value = BigInt.asIntN(7, BigInt((block[at] ?? 0) & 0x7f));
  for (let i = 1; i < length; i++) value = (value << 8n) | BigInt(block[at + i] ?? 0);
  const asNumber = Number(value);
  if (!Number.isSafeInteger(asNumber)) throw corrupt('a number is out of range');
  return asNumber;
}

const NO_XATTRS: ReadonlyMap<string, string> = new Map();

/** Parses one header block, PAX and GNU extensions not applied. dataLoss when it is none. */
export function parseHeader(block: Buffer): TarHeader {
  const expected = number(block, CHECKSUM_AT, CHECKSUM_BYTES);
  if (expected !== sumOf(block) && expected !== signedSumOf(block)) throw corrupt('the checksum of a header is wrong');
  const ustar = isText(block, 257, 'ustar\x0000');
  const known = ustar || isText(block, 257, 'ustar  \0');
  // star uses the end of the prefix field for times.
  const prefixBytes = isText(block, 508, 'tar\0') ? 131 : 155;
  const prefix = ustar ? text(block, 345, prefixBytes) : '';
  const name = text(block, 0, 100);
  const flag = block[156] ?? 0;
  return {
    name: prefix === '' ? name : `${prefix}/${name}`,
    // Archives from before POSIX tell a directory by the slash at its end.
    type: flag !== 0 ? String.fromCharCode(flag) : name.endsWith('/') ? '5' : '0',
    mode: number(block, 100, 8),
    uid: number(block, 108, 8),
    gid: number(block, 116, 8),
    sizeBytes: number(block, 124, 12),
    mtime: String(number(block, 136, 12)),
    linkName: text(block, 157, 100),
    devMajor: known ? number(block, 329, 8) : 0,
    devMinor: known ? number(block, 337, 8) : 0,
    xattrs: NO_XATTRS,
  };
}

const MAX_OCTAL_ID = 0o7777777;
const MAX_OCTAL_SIZE = 0o77777777777;
const XATTR_KEY = 'SCHILY.xattr.';
const ASCII = /^[\0-\x7f]*$/;

function paxRecord(key: string, value: string): string {
  const rest = ` ${key}=${value}\n`;
  let length = rest.length + 1;
  while (String(length).length + rest.length !== length) length = String(length).length + rest.length;
  return `${length}${rest}`;
}

function paxRecords(header: TarHeader): string {
  const records: string[] = [];
  // Otherwise bytes that are no UTF-8 would be translated, or refused.
  if (!ASCII.test(header.name) || !ASCII.test(header.linkName)) records.push(paxRecord('hdrcharset', 'BINARY'));
  if (header.name.length > 100) records.push(paxRecord('path', header.name));
  if (header.linkName.length > 100) records.push(paxRecord('linkpath', header.linkName));
  if (header.sizeBytes > MAX_OCTAL_SIZE) records.push(paxRecord('size', String(header.sizeBytes)));
  if (header.uid > MAX_OCTAL_ID) records.push(paxRecord('uid', String(header.uid)));
  if (header.gid > MAX_OCTAL_ID) records.push(paxRecord('gid', String(header.gid)));
  if (!/^\d{1,10}$/.test(header.mtime)) records.push(paxRecord('mtime', header.mtime));
  for (const [name, value] of header.xattrs) records.push(paxRecord(`${XATTR_KEY}${name}`, value));
  return records.join('');
}

function block(fields: { name: string; type: string; header: TarHeader; sizeBytes: number }): Buffer {
  const { name, type, header, sizeBytes } = fields;
  const bytes = Buffer.alloc(BLOCK_BYTES);
  const octal = (value: number, at: number, length: number): void => {
    bytes.write(value.toString(8).padStart(length - 1, '0'), at, length - 1, 'latin1');
  };
  const seconds = /^\d{1,10}$/.test(header.mtime) ? Number(header.mtime) : 0;
  bytes.write(name.slice(0, 100), 0, 'latin1');
  octal(header.mode & 0o7777, 100, 8);
  octal(header.uid > MAX_OCTAL_ID ? 0 : header.uid, 108, 8);
  octal(header.gid > MAX_OCTAL_ID ? 0 : header.gid, 116, 8);
  octal(sizeBytes > MAX_OCTAL_SIZE ? 0 : sizeBytes, 124, 12);
  octal(seconds, 136, 12);
  bytes.write(type, 156, 'latin1');
  bytes.write(header.linkName.slice(0, 100), 157, 'latin1');
  bytes.write('ustar\x0000', 257, 'latin1');
  octal(header.devMajor, 329, 8);
  octal(header.devMinor, 337, 8);
  bytes.write(sumOf(bytes).toString(8).padStart(6, '0') + '\0 ', CHECKSUM_AT, 'latin1');
  return bytes;
}

/** Bytes up to the next whole block. */
export const paddingOf = (sizeBytes: number): number => (BLOCK_BYTES - (sizeBytes % BLOCK_BYTES)) % BLOCK_BYTES;

/** The header as canonical ustar, with a PAX header before it where ustar has no room. */
export function encodeHeader(header: TarHeader): Buffer {
  const own = block({ name: header.name, type: header.type, header, sizeBytes: header.sizeBytes });
  const records = paxRecords(header);
  if (records === '') return own;
  const plain = { ...header, linkName: '', devMajor: 0, devMinor: 0, uid: 0, gid: 0 };
  const pax = block({ name: 'pax', type: 'x', header: plain, sizeBytes: records.length });
  return Buffer.concat([pax, Buffer.from(records, 'latin1'), Buffer.alloc(paddingOf(records.length)), own]);
}
