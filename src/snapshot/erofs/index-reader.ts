import { closeSync, fstatSync, openSync, readSync } from 'node:fs';
import type { ReadInode } from './format.ts';
import {
  BLOCK_BYTES,
  DIRENT_BYTES,
  fileTypeOf,
  INODE_BYTES,
  INODES_OFFSET,
  LAYOUT,
  NID_BYTES,
  readInode,
  S_IFDIR,
  S_IFMT,
} from './format.ts';

const ROOT_NID = INODES_OFFSET / NID_BYTES;

export interface DirentRead {
  readonly name: string;
  readonly nid: number;
  readonly fileType: number;
}

/** Looks into an index that this room wrote, without mounting it. */
export class IndexReader implements Disposable {
  readonly #fd: number;

  constructor(path: string) {
    this.#fd = openSync(path, 'r');
  }

  get sizeBytes(): number {
    return fstatSync(this.#fd).size;
  }

  /** Of a directory, by its path as a byte string; symlinks on the way lead nowhere. */
  dir(path: string): ReadInode | undefined {
    let nid = ROOT_NID;
    for (const name of path.split('/').filter((part) => part !== '')) {
      const found = this.#find(nid, name);
      if (found?.fileType !== fileTypeOf(S_IFDIR)) return undefined;
      nid = found.nid;
    }
    return this.inode(nid);
  }

  inode(nid: number): ReadInode {
    return readInode(this.#read(nid * NID_BYTES, INODE_BYTES));
  }

  /** Of a directory, in the order that they stand in. */
  *dirents(nid: number): Generator<DirentRead> {
    const { blocks } = this.#blocksOf(nid);
    for (let block = 0; block < blocks; block++) yield* this.#block(nid, block);
  }

  #find(nid: number, name: string): DirentRead | undefined {
    let low = 0;
    for (let high = this.#blocksOf(nid).blocks - 1; low < high;) {
      const middle = Math.ceil((low + high) / 2);
      const [first] = this.#block(nid, middle);
      if (first !== undefined && first.name <= name) low = middle;
      else high = middle - 1;
    }
    return this.#block(nid, low).find((dirent) => dirent.name === name);
  }

  #blocksOf(nid: number): { inode: ReadInode; blocks: number } {
    const inode = this.inode(nid);
    const isDir = (inode.mode & S_IFMT) === S_IFDIR;
    return { inode, blocks: isDir ? Math.ceil(inode.sizeBytes / BLOCK_BYTES) : 0 };
  }

  #block(nid: number, block: number): DirentRead[] {
    const { inode } = this.#blocksOf(nid);
    const begin = inode.layout === LAYOUT.inline ? nid * NID_BYTES + INODE_BYTES + inode.xattrBytes : inode.union * BLOCK_BYTES;
    const bytes = this.#read(begin + block * BLOCK_BYTES, Math.min(BLOCK_BYTES, inode.sizeBytes - block * BLOCK_BYTES));
    const count = bytes.readUInt16LE(8) / DIRENT_BYTES;
    return Array.from({ length: count }, (_, index) => {
      const at = index * DIRENT_BYTES;
      const end = index + 1 < count ? bytes.readUInt16LE(at + DIRENT_BYTES + 8) : bytes.length;
      // Behind the last name of a block are zeros.
      const name = bytes.toString('latin1', bytes.readUInt16LE(at + 8), end).replace(/\0.*$/s, '');
      return { name, nid: bytes.readUInt32LE(at), fileType: bytes[at + 10] ?? 0 };
    });
  }

  #read(position: number, length: number): Buffer {
    const bytes = Buffer.alloc(length);
    readSync(this.#fd, bytes, 0, length, position);
    return bytes;
  }

  [Symbol.dispose](): void {
    closeSync(this.#fd);
  }
}
