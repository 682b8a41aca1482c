import type { TarHeader } from '../../src/snapshot/tar/header.ts';
import { encodeHeader, paddingOf } from '../../src/snapshot/tar/header.ts';

/** One entry with its content; names are byte strings. */
export interface NastyEntry extends Partial<Omit<TarHeader, 'name' | 'sizeBytes'>> {
  readonly name: string;
  readonly content?: Buffer;
}

const headerOf = ({ content, ...entry }: NastyEntry): TarHeader => ({
  type: '0',
  mode: 0o644,
  uid: 0,
  gid: 0,
  mtime: '1000000000',
  linkName: '',
  devMajor: 0,
  devMinor: 0,
  xattrs: new Map(),
  ...entry,
  sizeBytes: content?.length ?? 0,
});

const padded = (bytes: Buffer): Buffer => Buffer.concat([bytes, Buffer.alloc(paddingOf(bytes.length))]);

/** A tar; `ending`: how many bytes of zeros close it, or `cut`: not even the last padding is there. */
export function tarOfEntries(entries: readonly NastyEntry[], ending: number | 'cut' = 1024): Buffer {
  const parts = entries.flatMap((entry) => [encodeHeader(headerOf(entry)), padded(entry.content ?? Buffer.alloc(0))]);
  const last = entries.at(-1)?.content;
  if (ending === 'cut' && last !== undefined) parts[parts.length - 1] = last;
  return Buffer.concat(ending === 'cut' ? parts : [...parts, Buffer.alloc(ending)]);
}

/** A block of the old GNU format. */
function gnu(entry: NastyEntry, patch: (block: Buffer) => void): Buffer {
  const block = encodeHeader(headerOf(entry));
  block.write('ustar  \0', 257, 'latin1');
  patch(block);
  block.fill(' ', 148, 156);
  const sum = block.reduce((total, byte) => total + byte, 0);
  block.write(`${sum.toString(8).padStart(6, '0')}\0 `, 148, 'latin1');
  return block;
}

/** GNU's long names and base-256 numbers. */
function gnuTar(): Buffer {
  const long = `${'gnu-long/'.repeat(30)}name`;
  const longName = (type: string, text: string): Buffer[] => [
    gnu({ name: '././@LongLink', type, content: Buffer.from(`${text}\0`) }, () => undefined),
    padded(Buffer.from(`${text}\0`)),
  ];
  const base256 = (block: Buffer, at: number, length: number, value: number): void => {
    block.fill(0, at, at + length);
    block[at] = 0x80;
    block.writeUIntBE(value, at + length - 6, 6);
  };
  return Buffer.concat([
    ...longName('L', long),
    gnu({ name: 'short', content: Buffer.from('x'.repeat(777)) }, () => undefined),
    padded(Buffer.from('x'.repeat(777))),
    ...longName('K', 'target/'.repeat(40)),
    gnu({ name: 'gnu-link', type: '2', linkName: 'short' }, () => undefined),
    gnu({ name: 'huge-ids' }, (block) => {
      base256(block, 108, 8, 4_000_000_001);
      base256(block, 116, 8, 4_000_000_002);
    }),
    // More than eleven octal digits hold, and no more than ext4 does.
    gnu({ name: 'late', mtime: '0' }, (block) => base256(block, 136, 12, 2 ** 33 + 5)),
    Buffer.alloc(1024),
  ]);
}

const bytes = (length: number, seed: number): Buffer =>
  Buffer.from(Uint8Array.from({ length }, (_, at) => (at * 31 + seed * 7 + (at >> 8)) & 0xff));

/** What a program that extracts tars and the kernel that mounts their indexes must agree about. */
export const NASTY_TARS: ReadonlyMap<string, Buffer> = new Map<string, Buffer>([
  ['nothing at all', Buffer.alloc(0)],
  ['only its end', tarOfEntries([])],
  ['more zeros than needed', tarOfEntries([{ name: 'a', content: bytes(5, 1) }], 10_240)],
  [
    'no padding and no end',
    tarOfEntries(
      [
        { name: 'a', content: bytes(700, 2) },
        { name: 'b', content: bytes(513, 3) },
      ],
      'cut',
    ),
  ],
  [
    'sizes around blocks and pages',
    tarOfEntries(
      [0, 1, 511, 512, 513, 1023, 1024, 4095, 4096, 4097, 8192, 65_535, 65_536, 1_000_003].map((size, at) => ({
        name: `size-${size}`,
        content: bytes(size, at),
      })),
    ),
  ],
  [
    'modes, owners, times',
    tarOfEntries([
      { name: './', type: '5', mode: 0o1751, uid: 3, gid: 4, mtime: '5' },
      { name: 'su', mode: 0o6755, uid: 1000, gid: 2000 },
      { name: 'none', mode: 0 },
      { name: 'sticky', type: '5', mode: 0o1777, mtime: '1234567890.987654321' },
      { name: 'ids', uid: 3_000_000_000, gid: 4_000_000_000 },
      { name: 'before', mtime: '-86400.5' },
      { name: 'ns', mtime: '1600000000.000000001' },
      { name: 'far', mtime: '4000000000.25' },
    ]),
  ],
  [
    'links and devices',
    tarOfEntries([
      { name: 'f', content: bytes(3000, 5) },
      { name: 'dir/hard', type: '1', linkName: 'f' },
      { name: 'dir/harder', type: '1', linkName: '/dir/hard' },
      { name: 'soft', type: '2', linkName: 'dir/hard' },
      { name: 'dangling', type: '2', linkName: '../../../nowhere' },
      { name: 'hard-soft', type: '1', linkName: 'soft' },
      ...[1, 59, 60, 100, 380, 384, 385, 447, 448, 449, 511, 512, 1024, 4000].map((length) => ({
        name: `soft-${length}`,
        type: '2',
        linkName: 'x'.repeat(length),
      })),
      { name: 'null', type: '3', devMajor: 1, devMinor: 3, mode: 0o666 },
      { name: 'big-numbers', type: '4', devMajor: 259, devMinor: 1_000_000 & 0o7777777, mode: 0o640, gid: 6 },
      { name: 'pipe', type: '6', mode: 0o600, uid: 7 },
    ]),
  ],
  [
    'names',
    tarOfEntries([
      { name: 'n'.repeat(255), content: bytes(1, 1) },
      { name: `${'deep/'.repeat(300)}leaf`, content: bytes(2, 2) },
      { name: '\xff\xfe not utf-8 \x80', content: bytes(3, 3) },
      { name: 'gr\xc3\xbc\xc3\x9fe', content: bytes(4, 4) },
      { name: ' blank ', content: bytes(5, 5) },
      { name: 'new\nline', content: bytes(6, 6) },
      { name: 'back\\slash', content: bytes(7, 7) },
      { name: '!before the dots', content: bytes(8, 8) },
      { name: '...', content: bytes(9, 9) },
      { name: '.hidden', content: bytes(10, 10) },
      { name: '-', content: bytes(11, 11) },
      { name: './/a/./b//', type: '5' },
      { name: '/absolute', content: bytes(12, 12) },
    ]),
  ],
  [
    'the last one wins, and directories come after their children',
    tarOfEntries([
      { name: 'd/child', content: bytes(10, 1) },
      { name: 'd', type: '5', mode: 0o700, uid: 9, mtime: '7' },
      { name: 'twice', content: bytes(100, 2) },
      { name: 'twice', content: bytes(50, 3), mode: 0o600 },
      { name: 'was-file', content: bytes(9, 4) },
      { name: 'was-dir', type: '5' },
      { name: 'was-dir', content: bytes(9, 5) },
      { name: 'linked', content: bytes(8, 6) },
      { name: 'other', type: '1', linkName: 'linked' },
      { name: 'linked', content: bytes(7, 7) },
      { name: 'd', type: '5', mode: 0o711, uid: 8, mtime: '9' },
    ]),
  ],
  [
    'directories of many sizes',
    tarOfEntries(
      [1, 15, 16, 17, 18, 19, 20, 40, 300, 3000].flatMap((count) => [
        { name: `of-${count}`, type: '5' },
        ...Array.from({ length: count }, (_, n) => ({ name: `of-${count}/${'name'.repeat(n % 9)}${n}`, uid: n })),
      ]),
    ),
  ],
  [
    'extended attributes',
    tarOfEntries([
      { name: 'one', xattrs: new Map([['user.colour', 'blue']]) },
      { name: 'same', xattrs: new Map([['user.colour', 'blue']]) },
      {
        name: 'more',
        content: bytes(600, 1),
        xattrs: new Map([
          ['user.colour', 'blue'],
          ['user.empty', ''],
          ['user.bin', '\0\xff\0'],
        ]),
      },
      {
        name: 'long',
        content: bytes(5, 2),
        xattrs: new Map([
          ['user.long', 'v'.repeat(3000)],
          [`user.${'n'.repeat(200)}`, 'w'],
        ]),
      },
      { name: 'dir', type: '5', xattrs: new Map([['user.dir', 'x'.repeat(400)]]) },
      { name: 'dir/in', xattrs: new Map([['user.colour', 'blue']]) },
      {
        name: 'capable',
        xattrs: new Map([['security.capability', '\x01\0\0\x02\0\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0']]),
      },
    ]),
  ],
  ['the formats of GNU tar', gnuTar()],
]);
