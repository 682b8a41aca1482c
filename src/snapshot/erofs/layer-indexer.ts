import type { TarHeader } from '../tar/header.ts';
import type { LayerLimits } from '../tar/layer-rules.ts';
import { dirOf, LAYER_LIMITS, LayerRules, refused } from '../tar/layer-rules.ts';
import type { TarSink } from '../tar/reader.ts';
import { BLOCK_BYTES, encodeDevice, S_IFBLK, S_IFCHR, S_IFDIR, S_IFIFO, S_IFLNK, S_IFREG } from './format.ts';
import type { TreeLimits } from './tree.ts';
import { LayerTree, NOTHING, ROOT, TREE_LIMITS } from './tree.ts';
import { XattrSets } from './xattrs.ts';

const TYPES: Readonly<Record<string, number>> = { '0': S_IFREG, '2': S_IFLNK, '3': S_IFCHR, '4': S_IFBLK, '5': S_IFDIR, '6': S_IFIFO };

const OPAQUE = { name: 'trusted.overlay.opaque', value: 'y' };
const MAX_ID = 0xfffffffe;

/** PAX: seconds with a fraction, maybe negative. The nanoseconds count forward. */
export function timeOf(text: string): { mtimeSeconds: number; mtimeNs: number } {
  if (!text.includes('.')) return { mtimeSeconds: Number(text), mtimeNs: 0 };
  const [whole = '0', fraction = ''] = text.split('.');
  const ns = Number(fraction.slice(0, 9).padEnd(9, '0'));
  const seconds = Number(whole);
  if (!text.startsWith('-')) return { mtimeSeconds: seconds, mtimeNs: ns };
  return ns === 0 ? { mtimeSeconds: seconds + 0, mtimeNs: 0 } : { mtimeSeconds: seconds - 1, mtimeNs: 1e9 - ns };
}

/** What the index is written from. */
export interface LayerContents {
  readonly tree: LayerTree;
  readonly xattrs: XattrSets;
  /** Inodes of directories that hold something and were not described: theirs are the attributes of the layer below. */
  readonly impliedDirs: readonly number[];
  /** It hides all of the layers below, which overlayfs has no mark for on a layer's root. */
  readonly opaqueRoot: boolean;
}

/**
 * Takes the entries of a layer's tar as the reader tells them and makes of them the tree that overlayfs is to see: whiteouts are 0/0 character devices and
 * opaque directories have their attribute. `isBottom`: nothing is below, so there is nothing to hide.
 */
export class LayerIndexer implements TarSink {
  readonly #rules: LayerRules;
  readonly #tree: LayerTree;
  readonly #xattrs = new XattrSets();
  readonly #isBottom: boolean;

  constructor(options: { isBottom: boolean; limits?: LayerLimits; treeLimits?: TreeLimits }) {
    this.#isBottom = options.isBottom;
    this.#rules = new LayerRules(options.limits ?? LAYER_LIMITS);
    this.#tree = new LayerTree(options.treeLimits ?? TREE_LIMITS);
  }

  entry(header: TarHeader, dataOffset: number): void {
    const clean = this.#rules.admit(header);
    const { name, type, linkName } = clean;
    if (type === '1') return this.#tree.link(name, linkName);
    const { uid, gid } = clean;
    if (uid < 0 || uid > MAX_ID) throw refused(name, `belongs to the impossible id ${uid}`);
    if (gid < 0 || gid > MAX_ID) throw refused(name, `belongs to the impossible id ${gid}`);
    this.#tree.put(name, {
      mode: (TYPES[type] ?? S_IFREG) | (type === '2' ? 0o777 : clean.mode & 0o7777),
      uid,
      gid,
      ...timeOf(clean.mtime),
      sizeBytes: type === '2' ? linkName.length : clean.sizeBytes,
      address: addressOf(clean, dataOffset),
      target: type === '2' ? linkName : '',
      xattrs: this.#xattrs.intern(name, clean.xattrs),
    });
  }

  data(): void {
    // It stays where it is.
  }

  endEntry(): void {
    // All was said at the beginning.
  }

  end(): LayerContents {
    const { whiteouts, opaques, markers } = this.#rules.markers();
    for (const path of markers) this.#tree.remove(path);
    if (!this.#isBottom) {
      for (const path of whiteouts) this.#hide(path);
      for (const path of opaques) this.#makeOpaque(this.#tree.lookupDir(path), path);
    }
    const implied: number[] = [];
    for (let inode = ROOT; inode < this.#tree.inodeCount; inode++)
      if (this.#tree.isDir(inode) && this.#tree.described[inode] === 0) implied.push(inode);
    return { tree: this.#tree, xattrs: this.#xattrs, impliedDirs: implied, opaqueRoot: opaques.includes('') };
  }

  /** A whiteout hides what is below and never what came with it in the same layer. */
  #hide(path: string): void {
    // A later entry may have made a file of it.
    if (this.#tree.lookupDir(dirOf(path)) === 0) return;
    const there = this.#tree.lookup(path);
    if (there === 0) this.#tree.put(path, { ...NOTHING, mode: S_IFCHR });
    else this.#makeOpaque(there, path);
  }

  #makeOpaque(inode: number, path: string): void {
    if (inode === 0 || !this.#tree.isDir(inode)) return;
    this.#tree.xattrs[inode] = this.#xattrs.extended(this.#tree.xattrs[inode] ?? 0, { ...OPAQUE, path });
  }
}

function addressOf({ name, type, devMajor, devMinor }: TarHeader, dataOffset: number): number {
  if (type === '0') return dataOffset / BLOCK_BYTES;
  if (type !== '3' && type !== '4') return 0;
  if (devMajor < 0 || devMajor > 0xfff || devMinor < 0 || devMinor > 0xfffff) throw refused(name, 'has an impossible device number');
  return encodeDevice(devMajor, devMinor);
}
