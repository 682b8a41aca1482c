import type { TarHeader } from './header.ts';
import { corrupt } from './header.ts';

/** Records of a PAX extended header; both sides byte strings. dataLoss when malformed. */
export function parsePax(body: Buffer): Map<string, string> {
  const records = new Map<string, string>();
  for (let at = 0; at < body.length;) {
    const blank = body.indexOf(0x20, at);
    const digits = blank < 0 ? '' : body.toString('latin1', at, blank);
    const end = at + Number(digits);
    if (!/^[1-9]\d{0,9}$/.test(digits) || end > body.length || body[end - 1] !== 0x0a) throw corrupt('a PAX record has a wrong length');
    const record = body.toString('latin1', blank + 1, end - 1);
    const equals = record.indexOf('=');
    if (equals < 1) throw corrupt('a PAX record has no key');
    records.set(record.slice(0, equals), record.slice(equals + 1));
    at = end;
  }
  return records;
}

const XATTR_KEY = 'SCHILY.xattr.';

function decimal(key: string, value: string): number {
  const parsed = Number(value);
  if (!/^\d{1,16}$/.test(value) || !Number.isSafeInteger(parsed)) throw corrupt(`the PAX record ${key} is not a number`);
  return parsed;
}

/** The header as the PAX records before it correct it. An empty value stands for no record. */
export function applyPax(header: TarHeader, records: ReadonlyMap<string, string>): TarHeader {
  const patch: { -readonly [K in keyof TarHeader]?: TarHeader[K] } = {};
  const xattrs = new Map<string, string>();
  for (const [key, value] of records) {
    if (key.startsWith(XATTR_KEY)) xattrs.set(key.slice(XATTR_KEY.length), value);
    else if (key.startsWith('GNU.sparse.')) patch.type = 'S';
    else if (value === '') continue;
    else if (key === 'path') patch.name = value;
    else if (key === 'linkpath') patch.linkName = value;
    else if (key === 'size') patch.sizeBytes = decimal(key, value);
    else if (key === 'uid') patch.uid = decimal(key, value);
    else if (key === 'gid') patch.gid = decimal(key, value);
    else if (key === 'mtime') {
      if (!/^-?\d{1,15}(\.\d{0,20})?$/.test(value)) throw corrupt('the PAX record mtime is not a time');
      patch.mtime = value;
    }
  }
  return { ...header, ...patch, xattrs };
}
