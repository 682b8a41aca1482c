import { refused, tooMuch } from '../tar/layer-rules.ts';
import { encodeXattr, MAX_SHARED_XATTRS, MAX_XATTR_BYTES, XATTR_HEADER_BYTES } from './format.ts';

const MAX_TOTAL_BYTES = 64 * 2 ** 20;

const ACL_TAGS: ReadonlySet<number> = new Set([0x01, 0x02, 0x04, 0x08, 0x10, 0x20]);
/** The entries for the owner, the group and all others. */
const ACL_BASE = [0x01, 0x04, 0x20];

/** Version 2 of the kernel's ACL attributes (linux/posix_acl_xattr.h). A malformed one would make every access to the file fail. */
export function isAcl(value: string): boolean {
  const bytes = Buffer.from(value, 'latin1');
  if (bytes.length < 4 || (bytes.length - 4) % 8 !== 0 || bytes.readUInt32LE(0) !== 2) return false;
  const tags = Array.from({ length: (bytes.length - 4) / 8 }, (_, index) => bytes.readUInt16LE(4 + 8 * index));
  return tags.every((tag) => ACL_TAGS.has(tag)) && ACL_BASE.every((tag) => tags.includes(tag));
}

interface Attribute {
  readonly bytes: Buffer;
  uses: number;
  /** In units of 4 bytes from the beginning of the shared ones. */
  sharedId: number | undefined;
}

/** The extended attributes of a layer: equal ones are kept once, and stand once in the index when two inodes have them. */
export class XattrSets {
  readonly #attributes = new Map<string, Attribute>();
  /** By id; the first is the empty set. */
  readonly #sets: Array<readonly Attribute[]> = [[]];
  readonly #ids = new Map<string, number>([['', 0]]);
  #bytes = 0;

  /** Id of that set; names and values are byte strings. resourceExhausted or failedPrecondition when the format has no room for them. */
  intern(path: string, xattrs: ReadonlyMap<string, string>): number {
    if (xattrs.size === 0) return 0;
    const pairs = [...xattrs].sort(([a], [b]) => (a < b ? -1 : 1));
    // No name has a NUL, and the length says where a value ends.
    const keys = pairs.map(([name, value]) => `${name}\0${value.length}\0${value}`);
    const key = keys.join('');
    const known = this.#ids.get(key);
    if (known !== undefined) return known;
    const set = pairs.map(([name, value], index) => this.#attribute(path, { key: keys[index] ?? '', name, value }));
    if (set.reduce((sum, { bytes }) => sum + bytes.length, 0) > MAX_XATTR_BYTES - XATTR_HEADER_BYTES)
      throw tooMuch(`the attributes of ${JSON.stringify(path.slice(0, 200))} are too long`);
    this.#count(key.length);
    this.#ids.set(key, this.#sets.length);
    return this.#sets.push(set) - 1;
  }

  #attribute(path: string, { key, name, value }: { key: string; name: string; value: string }): Attribute {
    const known = this.#attributes.get(key);
    if (known !== undefined) return known;
    if (name.startsWith('system.posix_acl_') && !isAcl(value)) throw refused(path, `has a malformed ${name}`);
    const bytes = encodeXattr(name, value);
    if (bytes === undefined) throw refused(path, `has an attribute ${JSON.stringify(name.slice(0, 200))} of ${value.length} bytes`);
    const attribute = { bytes, uses: 0, sharedId: undefined };
    this.#count(key.length + bytes.length);
    this.#attributes.set(key, attribute);
    return attribute;
  }

  /** A set with one attribute more. */
  extended(set: number, attribute: { name: string; value: string; path: string }): number {
    const { name, value, path } = attribute;
    const key = `+${set}\0${name}`;
    const known = this.#ids.get(key);
    if (known !== undefined) return known;
    const added = this.#attribute(path, { key: `${name}\0${value.length}\0${value}`, name, value });
    this.#ids.set(key, this.#sets.length);
    return this.#sets.push([...(this.#sets[set] ?? []), added]) - 1;
  }

  /** An inode has that set. All are told of before `share`. */
  use(set: number): void {
    for (const attribute of this.#sets[set] ?? []) attribute.uses++;
  }

  /** Decides which are shared, and what their area holds, in a fixed order. */
  share(): Buffer {
    const area: Buffer[] = [];
    let at = 0;
    for (const attribute of this.#attributes.values()) {
      if (attribute.uses < 2) continue;
      attribute.sharedId = at / 4;
      area.push(attribute.bytes);
      at += attribute.bytes.length;
    }
    return Buffer.concat(area);
  }

  /** Bytes between an inode and what follows it. */
  sizeOf(set: number): number {
    if (set === 0) return 0;
    const { shared, own } = this.#split(set);
    return XATTR_HEADER_BYTES + 4 * shared.length + own.reduce((sum, { bytes }) => sum + bytes.length, 0);
  }

  write(set: number, bytes: Buffer, at: number): void {
    const { shared, own } = this.#split(set);
    bytes.writeUInt8(shared.length, at + 4);
    let next = at + XATTR_HEADER_BYTES;
    for (const { sharedId = 0 } of shared) next = bytes.writeUInt32LE(sharedId, next);
    for (const attribute of own) next += attribute.bytes.copy(bytes, next);
  }

  #split(set: number): { shared: Attribute[]; own: Attribute[] } {
    const all = this.#sets[set] ?? [];
    const shared = all.filter(({ sharedId }) => sharedId !== undefined).slice(0, MAX_SHARED_XATTRS);
    return { shared, own: all.filter((attribute) => !shared.includes(attribute)) };
  }

  #count(bytes: number): void {
    this.#bytes += bytes + 64;
    if (this.#bytes > MAX_TOTAL_BYTES) throw tooMuch('its extended attributes are too long');
  }
}
