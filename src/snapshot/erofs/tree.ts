import { randomBytes } from 'node:crypto';
import { refused, tooMuch } from '../tar/layer-rules.ts';
import { S_IFDIR, S_IFLNK, S_IFMT } from './format.ts';

/** S3, of the tree that a layer makes. With the entries' own limit they bound its memory. */
export interface TreeLimits {
  readonly maxDepth: number;
  /** Of all names and symlink targets. */
  readonly maxTextBytes: number;
}

export const TREE_LIMITS: TreeLimits = { maxDepth: 2048, maxTextBytes: 256 * 2 ** 20 };

const MAX_NAME_BYTES = 255;
const MAX_SYMLINKS = 40;
/** Ids of 0 stand for nothing. */
const NONE = 0;
export const ROOT = 1;

export interface NewInode {
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
  readonly mtimeSeconds: number;
  readonly mtimeNs: number;
  readonly sizeBytes: number;
  /** Block of the content, or device number. */
  readonly address: number;
  readonly target: string;
  /** Of the set of attributes, 0 for none. */
  readonly xattrs: number;
}

/** All that is not known of what nobody described. */
export const NOTHING: Omit<NewInode, 'mode'> = {
  uid: 0,
  gid: 0,
  mtimeSeconds: 0,
  mtimeNs: 0,
  sizeBytes: 0,
  address: 0,
  target: '',
  xattrs: 0,
};

type Column = Uint8Array | Uint16Array | Uint32Array | Float64Array;

/** Same content, twice the room. */
function grown<T extends Column>(column: T): T {
  const larger = new (column.constructor as new (length: number) => T)(column.length * 2);
  larger.set(column);
  return larger;
}

const FIRST_ROOM = 1024;

/**
 * What a layer's entries amount to, as columns of numbers: about 100 bytes per entry and its name, where objects would take three times that. A name belongs
 * to a dirent, everything else to an inode, which hard links share. Names are byte strings. The last entry of a name wins; what it replaces is never freed.
 */
export class LayerTree {
  readonly #limits: TreeLimits;
  // Inodes.
  inodeCount = ROOT;
  mode = new Uint16Array(FIRST_ROOM);
  uid = new Uint32Array(FIRST_ROOM);
  gid = new Uint32Array(FIRST_ROOM);
  mtimeSeconds = new Float64Array(FIRST_ROOM);
  mtimeNs = new Uint32Array(FIRST_ROOM);
  sizeBytes = new Float64Array(FIRST_ROOM);
  /** Block of the content, device number, offset of a symlink's target among the texts, or a directory's own dirent. */
  address = new Uint32Array(FIRST_ROOM);
  xattrs = new Uint32Array(FIRST_ROOM);
  /** Of directories: the first dirent, their parent, how deep they lie, and whether an entry of their own told of them. */
  firstChild = new Uint32Array(FIRST_ROOM);
  parent = new Uint32Array(FIRST_ROOM);
  #depth = new Uint16Array(FIRST_ROOM);
  described = new Uint8Array(FIRST_ROOM);
  // Dirents.
  direntCount = 0;
  direntInode = new Uint32Array(FIRST_ROOM);
  direntParent = new Uint32Array(FIRST_ROOM);
  nextSibling = new Uint32Array(FIRST_ROOM);
  #nameOffset = new Uint32Array(FIRST_ROOM);
  #nameLength = new Uint8Array(FIRST_ROOM);
  #hashes = new Uint32Array(FIRST_ROOM);
  #texts = new Uint8Array(FIRST_ROOM * 16);
  #textBytes = 0;
  /** Open addressing: dirents by directory and name, at most half full. */
  #table = new Uint32Array(FIRST_ROOM * 2);
  /** The directory that was asked for last: its neighbours in the archive lie there too. */
  #lastPath = '';
  #lastDir = ROOT;

  constructor(limits: TreeLimits = TREE_LIMITS) {
    this.#limits = limits;
    this.#newInode({ ...NOTHING, mode: S_IFDIR | 0o755 });
    this.parent[ROOT] = ROOT;
  }

  /** An entry of the archive; replaces what had that name, except that a directory keeps what is in it. */
  put(path: string, inode: NewInode): void {
    const isDir = (inode.mode & S_IFMT) === S_IFDIR;
    if (path === '') return this.#describe(ROOT, inode);
    const { dir, name } = this.#locate(path);
    const dirent = this.#find(dir, name);
    const existing = this.direntInode[dirent] ?? NONE;
    if (isDir && existing !== NONE && this.isDir(existing)) return this.#describe(existing, inode);
    const id = this.#newInode(inode);
    this.described[id] = 1;
    if (isDir) this.#becomeDir(id, dir, path);
    const named = this.#name(dir, name, id);
    if (isDir) this.address[id] = named;
  }

  /** A hard link. failedPrecondition when there is nothing to link to: what is in the layers below can't be, as in every extraction of a layer by itself. */
  link(path: string, target: string): void {
    const found = this.lookup(target);
    if (found === NONE)
      throw refused(path, `is a hard link to ${JSON.stringify(target.slice(0, 200))}, which is not in the layer before it`);
    if (this.isDir(found)) throw refused(path, 'is a hard link to a directory');
    const { dir, name } = this.#locate(path);
    this.#name(dir, name, found);
  }

  /** Takes a name away, and what is below it. Missing is fine. */
  remove(path: string): void {
    const dirent = this.#direntAt(path);
    if (dirent !== NONE) this.direntInode[dirent] = NONE;
    this.#forgetPath();
  }

  /** The inode of a path, or 0. Symlinks on the way lead where they would in a container, the last one is not followed. */
  lookup(path: string): number {
    return path === '' ? ROOT : (this.direntInode[this.#direntAt(path)] ?? NONE);
  }

  /** The directory that a path leads to, or 0. */
  lookupDir(path: string): number {
    return this.#walk(path, () => NONE);
  }

  isDir(inode: number): boolean {
    return ((this.mode[inode] ?? 0) & S_IFMT) === S_IFDIR;
  }

  nameOf(dirent: number): string {
    return this.#text(this.#nameOffset[dirent] ?? 0, this.#nameLength[dirent] ?? 0);
  }

  nameLengthOf(dirent: number): number {
    return this.#nameLength[dirent] ?? 0;
  }

  targetOf(inode: number): string {
    return this.#text(this.address[inode] ?? 0, this.sizeBytes[inode] ?? 0);
  }

  /** Only for directories. */
  pathOf(dir: number): string {
    const names: string[] = [];
    for (let at = dir; at !== ROOT; at = this.parent[at] ?? ROOT) names.push(this.nameOf(this.address[at] ?? NONE));
    return names.reverse().join('/');
  }

  /** Brings a directory's dirents into the order of their names' bytes and lets go of those that were removed. */
  sortChildren(dir: number): void {
    const ids: number[] = [];
    for (let at = this.firstChild[dir] ?? NONE; at !== NONE; at = this.nextSibling[at] ?? NONE)
      if (this.direntInode[at] !== NONE) ids.push(at);
    ids.sort((a, b) => this.#compareNames(a, b));
    this.firstChild[dir] = ids[0] ?? NONE;
    for (const [index, id] of ids.entries()) this.nextSibling[id] = ids[index + 1] ?? NONE;
  }

  #compareNames(a: number, b: number): number {
    const [lengthA, lengthB] = [this.#nameLength[a] ?? 0, this.#nameLength[b] ?? 0];
    const [atA, atB] = [this.#nameOffset[a] ?? 0, this.#nameOffset[b] ?? 0];
    const shared = Math.min(lengthA, lengthB);
    for (let i = 0; i < shared; i++) {
      const difference = (this.#texts[atA + i] ?? 0) - (this.#texts[atB + i] ?? 0);
      if (difference !== 0) return difference;
    }
    return lengthA - lengthB;
  }

  #locate(path: string): { dir: number; name: string } {
    const slash = path.lastIndexOf('/');
    const dirPath = slash < 0 ? '' : path.slice(0, slash);
    if (dirPath !== this.#lastPath) {
      this.#lastDir = this.#dirAt(dirPath, path);
      this.#lastPath = dirPath;
    }
    return { dir: this.#lastDir, name: path.slice(slash + 1) };
  }

  #forgetPath(): void {
    this.#lastPath = '';
    this.#lastDir = ROOT;
  }

  /** The directory of that path, made where there is none. */
  #dirAt(path: string, entry: string): number {
    const found = this.#walk(path, (dir, name) => {
      const id = this.#newInode({ ...NOTHING, mode: S_IFDIR | 0o755 });
      this.#becomeDir(id, dir, entry);
      this.address[id] = this.#name(dir, name, id);
      return id;
    });
    if (found === NONE) throw refused(entry, 'lies below something that is not a directory');
    return found;
  }

  #direntAt(path: string): number {
    const slash = path.lastIndexOf('/');
    const dir = this.#walk(slash < 0 ? '' : path.slice(0, slash), () => NONE);
    return dir === NONE ? NONE : this.#find(dir, path.slice(slash + 1));
  }

  /** 0 when it does not lead to a directory. `missing` may make what is not there. */
  #walk(path: string, missing: (dir: number, name: string) => number): number {
    const ahead = path.split('/').reverse();
    let symlinks = 0;
    let dir = ROOT;
    for (let name = ahead.pop(); name !== undefined; name = ahead.pop()) {
      if (name === '' || name === '.') continue;
      if (name === '..') {
        dir = this.parent[dir] ?? ROOT;
        continue;
      }
      const next = this.direntInode[this.#find(dir, name)] || missing(dir, name);
      if (next === NONE) return NONE;
      const type = (this.mode[next] ?? 0) & S_IFMT;
      if (type === S_IFLNK) {
        if (++symlinks > MAX_SYMLINKS) return NONE;
        const target = this.targetOf(next);
        if (target.startsWith('/')) dir = ROOT;
        ahead.push(...target.split('/').reverse());
      } else if (type === S_IFDIR) dir = next;
      else return NONE;
    }
    return dir;
  }

  #describe(dir: number, inode: NewInode): void {
    this.#setAttributes(dir, inode);
    this.described[dir] = 1;
  }

  #becomeDir(id: number, parent: number, entry: string): void {
    const depth = (this.#depth[parent] ?? 0) + 1;
    if (depth > this.#limits.maxDepth)
      throw tooMuch(`entry ${JSON.stringify(entry.slice(0, 200))} lies deeper than ${this.#limits.maxDepth}`);
    this.parent[id] = parent;
    this.#depth[id] = depth;
  }

  #newInode(inode: NewInode): number {
    if (this.inodeCount === this.mode.length) this.#growInodes();
    const id = this.inodeCount++;
    this.#setAttributes(id, inode);
    this.sizeBytes[id] = inode.sizeBytes;
    this.address[id] = inode.target === '' ? inode.address : this.#keepText(inode.target);
    return id;
  }

  #setAttributes(id: number, inode: NewInode): void {
    this.mode[id] = inode.mode;
    this.uid[id] = inode.uid;
    this.gid[id] = inode.gid;
    this.mtimeSeconds[id] = inode.mtimeSeconds;
    this.mtimeNs[id] = inode.mtimeNs;
    this.xattrs[id] = inode.xattrs;
  }

  /** The dirent. */
  #name(dir: number, name: string, inode: number): number {
    const hash = hashOf(dir, name);
    const slot = this.#slotFor(dir, name, hash);
    const existing = this.#table[slot] ?? NONE;
    if (existing !== NONE) {
      // It may have been a directory or a symlink on the way to the one remembered.
      if (this.direntInode[existing] !== NONE) this.#forgetPath();
      this.direntInode[existing] = inode;
      return existing;
    }
    if (name.length > MAX_NAME_BYTES) throw refused(name, `has a name of ${name.length} bytes`);
    if (this.direntCount + 1 === this.direntInode.length) this.#growDirents();
    const id = ++this.direntCount;
    this.direntInode[id] = inode;
    this.direntParent[id] = dir;
    this.nextSibling[id] = this.firstChild[dir] ?? NONE;
    this.firstChild[dir] = id;
    this.#nameOffset[id] = this.#keepText(name);
    this.#nameLength[id] = name.length;
    this.#hashes[id] = hash;
    if (this.direntCount * 2 > this.#table.length) this.#rehash();
    else this.#table[slot] = id;
    return id;
  }

  #keepText(text: string): number {
    const at = this.#textBytes;
    if (at + text.length > this.#limits.maxTextBytes) throw tooMuch('its names are too long');
    while (at + text.length > this.#texts.length) this.#texts = grown(this.#texts);
    for (let i = 0; i < text.length; i++) this.#texts[at + i] = text.charCodeAt(i);
    this.#textBytes = at + text.length;
    return at;
  }

  #text(at: number, length: number): string {
    return Buffer.from(this.#texts.buffer, at, length).toString('latin1');
  }

  #find(dir: number, name: string): number {
    return this.#table[this.#slotFor(dir, name, hashOf(dir, name))] ?? NONE;
  }

  /** Where that dirent is in the table, or the free place for it. */
  #slotFor(dir: number, name: string, hash: number): number {
    const mask = this.#table.length - 1;
    for (let slot = hash & mask; ; slot = (slot + 1) & mask) {
      const id = this.#table[slot] ?? NONE;
      if (id === NONE || (this.#hashes[id] === hash && this.direntParent[id] === dir && this.#isName(id, name))) return slot;
    }
  }

  #isName(dirent: number, name: string): boolean {
    if (this.#nameLength[dirent] !== name.length) return false;
    const at = this.#nameOffset[dirent] ?? 0;
    for (let i = 0; i < name.length; i++) if (this.#texts[at + i] !== name.charCodeAt(i)) return false;
    return true;
  }

  #rehash(): void {
    this.#table = new Uint32Array(this.#table.length * 2);
    const mask = this.#table.length - 1;
    for (let id = 1; id <= this.direntCount; id++) {
      let slot = (this.#hashes[id] ?? 0) & mask;
      while (this.#table[slot] !== NONE) slot = (slot + 1) & mask;
      this.#table[slot] = id;
    }
  }

  #growInodes(): void {
    this.mode = grown(this.mode);
    this.uid = grown(this.uid);
    this.gid = grown(this.gid);
    this.mtimeSeconds = grown(this.mtimeSeconds);
    this.mtimeNs = grown(this.mtimeNs);
    this.sizeBytes = grown(this.sizeBytes);
    this.address = grown(this.address);
    this.xattrs = grown(this.xattrs);
    this.firstChild = grown(this.firstChild);
    this.parent = grown(this.parent);
    this.#depth = grown(this.#depth);
    this.described = grown(this.described);
  }

  #growDirents(): void {
    this.direntInode = grown(this.direntInode);
    this.direntParent = grown(this.direntParent);
    this.nextSibling = grown(this.nextSibling);
    this.#nameOffset = grown(this.#nameOffset);
    this.#nameLength = grown(this.#nameLength);
    this.#hashes = grown(this.#hashes);
  }
}

/** A layer chooses its names, and shall not choose where they collide. */
const SEED = randomBytes(4).readUInt32LE();

/** FNV-1a over the name, begun with the directory. */
function hashOf(dir: number, name: string): number {
  let hash = (SEED ^ Math.imul(dir, 0x9e3779b1)) >>> 0;
  for (let i = 0; i < name.length; i++) hash = Math.imul(hash ^ name.charCodeAt(i), 0x01000193);
  hash ^= hash >>> 15;
  return Math.imul(hash, 0x2c1b3c6d) >>> 0;
}
