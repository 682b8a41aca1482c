/**
 * The on-disk format of EROFS, as far as an index of a tar needs it (Linux, Documentation/filesystems/erofs.rst). All numbers are little-endian;
 * a nid is an inode's offset in units of 32 bytes.
 */

/** Content in a tar begins at multiples of 512, so that is the block (Linux 6.4: smaller than a page). */
export const BLOCK_BITS = 9;
export const BLOCK_BYTES = 1 << BLOCK_BITS;
export const SUPER_OFFSET = 1024;
const SUPER_BYTES = 128;
const SLOT_BYTES = 128;
export const NID_BYTES = 32;
/** Behind the superblock and the table of one device, at a whole block. */
export const INODES_OFFSET = 1536;
export const INODE_BYTES = 64;
export const XATTR_HEADER_BYTES = 12;
export const CHUNK_INDEX_BYTES = 8;
export const DIRENT_BYTES = 12;
/** i_xattr_icount has 16 bits: a header, then units of 4 bytes. */
export const MAX_XATTR_BYTES = XATTR_HEADER_BYTES + 4 * 0xfffe;
/** e_value_size has 16 bits. */
export const MAX_XATTR_VALUE_BYTES = 0xffff;
/** h_shared_count has 8. */
export const MAX_SHARED_XATTRS = 255;

const MAGIC = 0xe0f5e1e2;
const COMPAT = { checksum: 0x1, mtime: 0x2 };
const INCOMPAT = { chunkedFile: 0x4, deviceTable: 0x8 };

export const LAYOUT = { plain: 0, inline: 2, chunks: 4 } as const;
export type Layout = (typeof LAYOUT)[keyof typeof LAYOUT];
const EXTENDED = 1;
const CHUNKS_HAVE_INDEXES = 0x20;

export const S_IFMT = 0o170000;
export const S_IFREG = 0o100000;
export const S_IFDIR = 0o040000;
export const S_IFLNK = 0o120000;
export const S_IFCHR = 0o020000;
export const S_IFBLK = 0o060000;
export const S_IFIFO = 0o010000;

const FILE_TYPES: ReadonlyMap<number, number> = new Map([
  [S_IFREG, 1],
  [S_IFDIR, 2],
  [S_IFCHR, 3],
  [S_IFBLK, 4],
  [S_IFIFO, 5],
  [S_IFLNK, 7],
]);

/** Of a dirent. */
export const fileTypeOf = (mode: number): number => FILE_TYPES.get(mode & S_IFMT) ?? 0;

/** As the kernel packs a device number into 32 bits (12 of the major, 20 of the minor). */
export const encodeDevice = (major: number, minor: number): number => ((minor & 0xff) | (major << 8) | ((minor & ~0xff) << 12)) >>> 0;

const CRC_TABLE = Uint32Array.from({ length: 256 }, (_, byte) => {
  let crc = byte;
  for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? (crc >>> 1) ^ 0x82f63b78 : crc >>> 1;
  return crc;
});

/** CRC-32C without the final inversion. */
export function crc32c(bytes: Uint8Array): number {
  let crc = 0xffffffff;
  for (const byte of bytes) crc = (crc >>> 8) ^ (CRC_TABLE[(crc ^ byte) & 0xff] ?? 0);
  return crc >>> 0;
}

export interface SuperBlock {
  readonly rootNid: number;
  readonly inodes: number;
  /** Of the index itself. */
  readonly blocks: number;
  /** Where the shared attributes begin. */
  readonly xattrBlock: number;
  /** Of the tar. */
  readonly dataBlocks: number;
  /** Hex digits of the tar's SHA-256: they name the device and the filesystem. */
  readonly digest: string;
}

/** The first INODES_OFFSET bytes: superblock and the table with the one other device, the tar. */
export function encodeSuperBlock(fields: SuperBlock): Buffer {
  const bytes = Buffer.alloc(INODES_OFFSET);
  const at = SUPER_OFFSET;
  bytes.writeUInt32LE(MAGIC, at);
  bytes.writeUInt32LE(COMPAT.checksum | COMPAT.mtime, at + 8);
  bytes.writeUInt8(BLOCK_BITS, at + 12);
  bytes.writeUInt16LE(fields.rootNid, at + 14);
  bytes.writeBigUInt64LE(BigInt(fields.inodes), at + 16);
  bytes.writeUInt32LE(fields.blocks, at + 36);
  bytes.writeUInt32LE(fields.xattrBlock, at + 44);
  bytes.write(fields.digest.slice(0, 32), at + 48, 'hex');
  bytes.writeUInt32LE(INCOMPAT.chunkedFile | INCOMPAT.deviceTable, at + 80);
  bytes.writeUInt16LE(1, at + 86);
  const slot = SUPER_OFFSET + SUPER_BYTES;
  bytes.writeUInt16LE(slot / SLOT_BYTES, at + 88);
  bytes.write(fields.digest, slot, 64, 'latin1');
  bytes.writeUInt32LE(fields.dataBlocks, slot + 64);
  // Over the whole first block, this field as zero.
  bytes.writeUInt32LE(crc32c(bytes.subarray(at, at + BLOCK_BYTES)), at + 4);
  return bytes;
}

export interface InodeFields {
  readonly layout: Layout;
  readonly xattrBytes: number;
  readonly mode: number;
  readonly sizeBytes: number;
  /** First block of plain content, the chunk format, or the device number. */
  readonly union: number;
  readonly ino: number;
  readonly uid: number;
  readonly gid: number;
  readonly mtimeSeconds: number;
  readonly mtimeNs: number;
  readonly nlink: number;
}

/** Units of i_xattr_icount. */
const xattrUnits = (bytes: number): number => (bytes === 0 ? 0 : (bytes - XATTR_HEADER_BYTES) / 4 + 1);

export function writeInode(bytes: Buffer, at: number, fields: InodeFields): void {
  bytes.writeUInt16LE(EXTENDED | (fields.layout << 1), at);
  bytes.writeUInt16LE(xattrUnits(fields.xattrBytes), at + 2);
  bytes.writeUInt16LE(fields.mode, at + 4);
  writeUInt64(bytes, fields.sizeBytes, at + 8);
  bytes.writeUInt32LE(fields.union, at + 16);
  bytes.writeUInt32LE(fields.ino, at + 20);
  bytes.writeUInt32LE(fields.uid, at + 24);
  bytes.writeUInt32LE(fields.gid, at + 28);
  writeUInt64(bytes, fields.mtimeSeconds, at + 32);
  bytes.writeUInt32LE(fields.mtimeNs, at + 40);
  bytes.writeUInt32LE(fields.nlink, at + 44);
}

/** What can be said of a directory without looking into it. */
export interface InodeAttributes {
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
  readonly mtimeSeconds: number;
  readonly mtimeNs: number;
}

export interface ReadInode extends InodeAttributes {
  readonly layout: number;
  readonly xattrBytes: number;
  readonly sizeBytes: number;
  readonly union: number;
  readonly nlink: number;
}

export function readInode(bytes: Buffer, at = 0): ReadInode {
  const units = bytes.readUInt16LE(at + 2);
  return {
    layout: (bytes.readUInt16LE(at) >> 1) & 7,
    xattrBytes: units === 0 ? 0 : XATTR_HEADER_BYTES + 4 * (units - 1),
    mode: bytes.readUInt16LE(at + 4),
    sizeBytes: Number(bytes.readBigUInt64LE(at + 8)),
    union: bytes.readUInt32LE(at + 16),
    uid: bytes.readUInt32LE(at + 24),
    gid: bytes.readUInt32LE(at + 28),
    mtimeSeconds: Number(bytes.readBigInt64LE(at + 32)),
    mtimeNs: bytes.readUInt32LE(at + 40),
    nlink: bytes.readUInt32LE(at + 44),
  };
}

/** Over an inode that is written already: everything else about it stays. */
export function patchAttributes(bytes: Buffer, at: number, { mode, uid, gid, mtimeSeconds, mtimeNs }: InodeAttributes): void {
  bytes.writeUInt16LE(mode, at + 4);
  bytes.writeUInt32LE(uid, at + 24);
  bytes.writeUInt32LE(gid, at + 28);
  writeUInt64(bytes, mtimeSeconds, at + 32);
  bytes.writeUInt32LE(mtimeNs, at + 40);
}

/** Two's complement, without the cost of a BigInt. */
function writeUInt64(bytes: Buffer, value: number, at: number): void {
  const high = Math.floor(value / 2 ** 32);
  bytes.writeUInt32LE(value - high * 2 ** 32, at);
  bytes.writeInt32LE(high, at + 4);
}

/** i_u of a file that lies in one piece: one chunk that is at least as large as the file. */
export function chunkFormat(sizeBytes: number): number {
  const blocks = Math.ceil(sizeBytes / BLOCK_BYTES);
  return CHUNKS_HAVE_INDEXES | Math.ceil(Math.log2(Math.max(1, blocks)));
}

/** Where that chunk begins: a block of the tar, which is device 1. */
export function writeChunkIndex(bytes: Buffer, at: number, block: number): void {
  bytes.writeUInt16LE(1, at + 2);
  bytes.writeUInt32LE(block, at + 4);
}

export function writeDirent(bytes: Buffer, at: number, dirent: { nid: number; nameOffset: number; fileType: number }): void {
  bytes.writeUInt32LE(dirent.nid, at);
  bytes.writeUInt16LE(dirent.nameOffset, at + 8);
  bytes.writeUInt8(dirent.fileType, at + 10);
}

const XATTR_PREFIXES: ReadonlyArray<readonly [prefix: string, index: number]> = [
  ['user.', 1],
  ['system.posix_acl_access', 2],
  ['system.posix_acl_default', 3],
  ['trusted.', 4],
  ['security.', 6],
];

/** One attribute, padded to 4 bytes; undefined when the format has no room for it. Name and value are byte strings. */
export function encodeXattr(name: string, value: string): Buffer | undefined {
  const found = XATTR_PREFIXES.find(([prefix]) => name.startsWith(prefix));
  if (found === undefined || value.length > MAX_XATTR_VALUE_BYTES) return undefined;
  const [prefix, index] = found;
  const rest = name.slice(prefix.length);
  // A whole name leaves nothing, a mere prefix leaves something.
  if (rest.length > 255 || (rest === '') !== !prefix.endsWith('.')) return undefined;
  const bytes = Buffer.alloc((4 + rest.length + value.length + 3) & ~3);
  bytes.writeUInt8(rest.length, 0);
  bytes.writeUInt8(index, 1);
  bytes.writeUInt16LE(value.length, 2);
  bytes.write(rest, 4, 'latin1');
  bytes.write(value, 4 + rest.length, 'latin1');
  return bytes;
}
