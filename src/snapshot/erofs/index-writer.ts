import { writeSync } from 'node:fs';
import type { Layout } from './format.ts';
import {
  BLOCK_BYTES,
  CHUNK_INDEX_BYTES,
  chunkFormat,
  DIRENT_BYTES,
  encodeSuperBlock,
  fileTypeOf,
  INODE_BYTES,
  INODES_OFFSET,
  LAYOUT,
  NID_BYTES,
  S_IFDIR,
  S_IFLNK,
  S_IFMT,
  S_IFREG,
  writeChunkIndex,
  writeDirent,
  writeInode,
} from './format.ts';
import type { LayerContents } from './layer-indexer.ts';
import type { LayerTree } from './tree.ts';
import { ROOT } from './tree.ts';

const BUFFER_BYTES = 1 << 20;
/** So that whatever pages or sectors hold the file, none is partial. */
const PAGE_BYTES = 4096;

const align = (value: number, unit: number): number => Math.ceil(value / unit) * unit;

/** A file written from front to back. */
class Output {
  readonly buffer = Buffer.alloc(BUFFER_BYTES);
  readonly #fd: number;
  #flushed = 0;
  #filled = 0;

  constructor(fd: number) {
    this.#fd = fd;
  }

  /** Zeros up to `offset`. */
  skipTo(offset: number): void {
    for (let left = offset - this.#flushed - this.#filled; left > 0;) {
      const some = Math.min(left, BUFFER_BYTES);
      this.take(some);
      left -= some;
    }
  }

  /** Room for that many bytes, all zero, at what it returns in `buffer`; valid until the next call. */
  take(length: number): number {
    if (this.#filled + length > BUFFER_BYTES) this.flush();
    const at = this.#filled;
    this.#filled += length;
    return at;
  }

  write(bytes: Buffer): void {
    for (let at = 0; at < bytes.length; at += BUFFER_BYTES) {
      const piece = bytes.subarray(at, at + BUFFER_BYTES);
      const into = this.take(piece.length);
      piece.copy(this.buffer, into);
    }
  }

  flush(): void {
    for (let at = 0; at < this.#filled;) at += writeSync(this.#fd, this.buffer, at, this.#filled - at);
    this.#flushed += this.#filled;
    this.buffer.fill(0, 0, this.#filled);
    this.#filled = 0;
  }
}

/** Where everything goes. Inodes stand breadth first, so that those of one directory are neighbours. */
interface Plan {
  readonly order: Uint32Array;
  readonly count: number;
  readonly nid: Uint32Array;
  readonly nlink: Uint32Array;
  readonly layout: Uint8Array;
  /** Of directories and symlinks that have blocks of their own. */
  readonly block: Uint32Array;
  readonly plainOffset: number;
  readonly xattrOffset: number;
  readonly sharedXattrs: Buffer;
}

/**
 * Writes the index of a layer: an EROFS filesystem without the files' content, which stays in the tar. The same contents make the same bytes. `fd` is an empty
 * file; `offsetOf` tells where an inode stands in it.
 */
export function writeIndex(
  fd: number,
  contents: LayerContents,
  data: { digest: string; sizeBytes: number },
): { offsetOf(inode: number): number | undefined; sizeBytes: number } {
  const plan = planIndex(contents);
  const end = align(plan.xattrOffset + plan.sharedXattrs.length, PAGE_BYTES);
  const output = new Output(fd);
  output.write(
    encodeSuperBlock({
      rootNid: plan.nid[ROOT] ?? 0,
      inodes: plan.count,
      blocks: end / BLOCK_BYTES,
      xattrBlock: plan.xattrOffset / BLOCK_BYTES,
      dataBlocks: Math.ceil(data.sizeBytes / BLOCK_BYTES),
      digest: data.digest,
    }),
  );
  for (let index = 0; index < plan.count; index++) writeRecord(output, contents, { plan, inode: plan.order[index] ?? 0, ino: index + 1 });
  output.skipTo(plan.plainOffset);
  for (let index = 0; index < plan.count; index++) {
    const inode = plan.order[index] ?? 0;
    if (isPlain(contents.tree, plan, inode)) writeContent(output, contents.tree, { plan, inode, isPadded: true });
  }
  output.skipTo(plan.xattrOffset);
  output.write(plan.sharedXattrs);
  output.skipTo(end);
  output.flush();
  return {
    offsetOf: (inode) => (plan.nlink[inode] === 0 ? undefined : (plan.nid[inode] ?? 0) * NID_BYTES),
    sizeBytes: end,
  };
}

const typeOf = (tree: LayerTree, inode: number): number => (tree.mode[inode] ?? 0) & S_IFMT;

const hasContent = (tree: LayerTree, inode: number): boolean => typeOf(tree, inode) === S_IFDIR || typeOf(tree, inode) === S_IFLNK;

const isPlain = (tree: LayerTree, plan: Plan, inode: number): boolean => plan.layout[inode] === LAYOUT.plain && hasContent(tree, inode);

function planIndex({ tree, xattrs }: LayerContents): Plan {
  const order = new Uint32Array(tree.inodeCount);
  const nlink = new Uint32Array(tree.inodeCount);
  let count = 0;
  order[count++] = ROOT;
  nlink[ROOT] = 2;
  for (let index = 0; index < count; index++) {
    const inode = order[index] ?? 0;
    xattrs.use(tree.xattrs[inode] ?? 0);
    if (!tree.isDir(inode)) continue;
    tree.sortChildren(inode);
    tree.sizeBytes[inode] = dirSize(tree, inode);
    for (let dirent = tree.firstChild[inode] ?? 0; dirent !== 0; dirent = tree.nextSibling[dirent] ?? 0) {
      const child = tree.direntInode[dirent] ?? 0;
      if (nlink[child] === 0) order[count++] = child;
      const isDir = tree.isDir(child);
      nlink[child] = (nlink[child] ?? 0) + (isDir ? 2 : 1);
      if (isDir) nlink[inode] = (nlink[inode] ?? 0) + 1;
    }
  }
  const sharedXattrs = xattrs.share();
  return {
    order,
    count,
    nlink,
    sharedXattrs,
    ...place(tree, { order, count, xattrBytesOf: (inode) => xattrs.sizeOf(tree.xattrs[inode] ?? 0) }),
  };
}

function place(
  tree: LayerTree,
  { order, count, xattrBytesOf }: { order: Uint32Array; count: number; xattrBytesOf: (inode: number) => number },
): Pick<Plan, 'nid' | 'layout' | 'block' | 'plainOffset' | 'xattrOffset'> {
  const nid = new Uint32Array(tree.inodeCount);
  const layout = new Uint8Array(tree.inodeCount);
  const block = new Uint32Array(tree.inodeCount);
  let offset = INODES_OFFSET;
  for (let index = 0; index < count; index++) {
    const inode = order[index] ?? 0;
    const size = tree.sizeBytes[inode] ?? 0;
    const head = INODE_BYTES + xattrBytesOf(inode);
    let length = head;
    if (typeOf(tree, inode) === S_IFREG && size > 0) {
      layout[inode] = LAYOUT.chunks;
      length = align(head, CHUNK_INDEX_BYTES) + CHUNK_INDEX_BYTES;
    } else if (hasContent(tree, inode) && head + size <= BLOCK_BYTES) {
      layout[inode] = LAYOUT.inline;
      length = head + size;
      // What is inline may not cross a block.
      const tail = (offset + head) % BLOCK_BYTES;
      if (tail + size > BLOCK_BYTES) offset = align(offset, BLOCK_BYTES);
    }
    nid[inode] = offset / NID_BYTES;
    offset = align(offset + length, NID_BYTES);
  }
  const plainOffset = align(offset, BLOCK_BYTES);
  offset = plainOffset;
  for (let index = 0; index < count; index++) {
    const inode = order[index] ?? 0;
    if (layout[inode] !== LAYOUT.plain || !hasContent(tree, inode)) continue;
    block[inode] = offset / BLOCK_BYTES;
    offset += align(tree.sizeBytes[inode] ?? 0, BLOCK_BYTES);
  }
  return { nid, layout, block, plainOffset, xattrOffset: offset };
}

function writeRecord(
  output: Output,
  { tree, xattrs }: LayerContents,
  { plan, inode, ino }: { plan: Plan; inode: number; ino: number },
): void {
  output.skipTo((plan.nid[inode] ?? 0) * NID_BYTES);
  const set = tree.xattrs[inode] ?? 0;
  const xattrBytes = xattrs.sizeOf(set);
  const layout = (plan.layout[inode] ?? 0) as Layout;
  const sizeBytes = tree.sizeBytes[inode] ?? 0;
  const at = output.take(align(INODE_BYTES + xattrBytes, layout === LAYOUT.chunks ? CHUNK_INDEX_BYTES : 1));
  writeInode(output.buffer, at, {
    layout,
    xattrBytes,
    mode: tree.mode[inode] ?? 0,
    sizeBytes,
    union: unionOf(tree, plan, inode),
    ino,
    uid: tree.uid[inode] ?? 0,
    gid: tree.gid[inode] ?? 0,
    mtimeSeconds: tree.mtimeSeconds[inode] ?? 0,
    mtimeNs: tree.mtimeNs[inode] ?? 0,
    nlink: plan.nlink[inode] ?? 0,
  });
  if (set !== 0) xattrs.write(set, output.buffer, at + INODE_BYTES);
  if (layout === LAYOUT.chunks) writeChunkIndex(output.buffer, output.take(CHUNK_INDEX_BYTES), tree.address[inode] ?? 0);
  else if (layout === LAYOUT.inline) writeContent(output, tree, { plan, inode, isPadded: false });
}

function unionOf(tree: LayerTree, plan: Plan, inode: number): number {
  if (plan.layout[inode] === LAYOUT.chunks) return chunkFormat(tree.sizeBytes[inode] ?? 0);
  if (hasContent(tree, inode)) return plan.block[inode] ?? 0;
  // Nothing for an empty file, whose tar header came right before the next.
  return typeOf(tree, inode) === S_IFREG ? 0 : (tree.address[inode] ?? 0);
}

function writeContent(output: Output, tree: LayerTree, { plan, inode, isPadded }: { plan: Plan; inode: number; isPadded: boolean }): void {
  const size = tree.sizeBytes[inode] ?? 0;
  if (typeOf(tree, inode) === S_IFDIR) return writeDir(output, { tree, dir: inode, nid: plan.nid, isPadded });
  const at = output.take(isPadded ? align(size, BLOCK_BYTES) : size);
  output.buffer.write(tree.targetOf(inode), at, 'latin1');
}

/** Names that fit into one block with what stands before each of them. */
class Packing {
  blocks = 0;
  used = 0;

  /** Whether the name begins a new block. */
  add(nameLength: number): boolean {
    const need = DIRENT_BYTES + nameLength;
    const isNew = this.used + need > BLOCK_BYTES;
    if (isNew) {
      this.blocks++;
      this.used = 0;
    }
    this.used += need;
    return isNew;
  }

  get sizeBytes(): number {
    return this.blocks * BLOCK_BYTES + this.used;
  }
}

/** `.` and `..` stand among the other names, in the order of bytes: the kernel searches by halves. */
function* namesOf(tree: LayerTree, dir: number): Generator<{ readonly name: string; readonly inode: number }> {
  const dots = [
    { name: '.', inode: dir },
    { name: '..', inode: tree.parent[dir] ?? ROOT },
  ];
  for (let dirent = tree.firstChild[dir] ?? 0; dirent !== 0; dirent = tree.nextSibling[dirent] ?? 0) {
    const name = tree.nameOf(dirent);
    for (let dot = dots[0]; dot !== undefined && dot.name < name; dot = dots[0]) {
      yield dot;
      dots.shift();
    }
    yield { name, inode: tree.direntInode[dirent] ?? 0 };
  }
  yield* dots;
}

function dirSize(tree: LayerTree, dir: number): number {
  const packing = new Packing();
  for (const { name } of namesOf(tree, dir)) packing.add(name.length);
  return packing.sizeBytes;
}

function writeDir(
  output: Output,
  { tree, dir, nid, isPadded }: { tree: LayerTree; dir: number; nid: Uint32Array; isPadded: boolean },
): void {
  let block: Array<{ readonly name: string; readonly inode: number }> = [];
  const finish = (length: number): void => {
    const at = output.take(isPadded ? BLOCK_BYTES : length);
    let nameOffset = block.length * DIRENT_BYTES;
    for (const [index, { name, inode }] of block.entries()) {
      const fileType = fileTypeOf(tree.mode[inode] ?? 0);
      writeDirent(output.buffer, at + index * DIRENT_BYTES, { nid: nid[inode] ?? 0, nameOffset, fileType });
      nameOffset += output.buffer.write(name, at + nameOffset, 'latin1');
    }
    block = [];
  };
  const packing = new Packing();
  for (const each of namesOf(tree, dir)) {
    if (packing.add(each.name.length)) finish(BLOCK_BYTES);
    block.push(each);
  }
  finish(packing.used);
}
