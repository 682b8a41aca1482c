import { ClassifiedError } from '../../base/errors.ts';
import type { TarHeader } from './header.ts';
import { BLOCK_BYTES } from './header.ts';

/** S3. The size is of the whole layer, uncompressed. */
export interface LayerLimits {
  readonly maxEntries: number;
  readonly maxSizeBytes: number;
  readonly maxPathBytes: number;
  /** Of all names that have to be remembered as text: directories and whiteouts. */
  readonly maxTrackedBytes: number;
}

export const LAYER_LIMITS: LayerLimits = {
  maxEntries: 2_000_000,
  maxSizeBytes: 64 * 2 ** 30,
  maxPathBytes: 4096,
  maxTrackedBytes: 64 * 2 ** 20,
};

/** What a layer means beyond its files (OCI image-spec, "Whiteouts"); paths relative to the layer's root ("" is the root), byte strings. */
export interface Markers {
  /** Paths of what is hidden in the layers below. */
  readonly whiteouts: readonly string[];
  /** Directories that hide what the layers below have in them. */
  readonly opaques: readonly string[];
  /** Whiteout files themselves, and aufs' own files: to be removed. */
  readonly markers: readonly string[];
}

const WHITEOUT = '.wh.';
const AUFS = '.wh..wh.';
const OPAQUE = '.wh..wh..opq';

export const refused = (name: string, why: string): ClassifiedError =>
  new ClassifiedError('failedPrecondition', `unpack layer: entry ${JSON.stringify(name.slice(0, 200))} ${why}`);
export const tooMuch = (what: string): ClassifiedError => new ClassifiedError('resourceExhausted', `unpack layer: ${what}`);

/** Whatever `normalise` has something to do about. */
const ODD_PATH = /\0|\/\/|(?:^|\/)\.{0,2}(?:\/|$)/;

/** A relative path without empty, `.` and `..` components; "" is the root. */
function normalise(path: string, entry: string, limits: LayerLimits): string {
  if (path.length >= limits.maxPathBytes) throw tooMuch(`an entry's path has ${path.length} bytes`);
  if (!ODD_PATH.test(path)) return path;
  if (path.includes('\0')) throw refused(entry, 'has a NUL byte in its name');
  const parts = path.split('/').filter((part) => part !== '' && part !== '.');
  if (parts.includes('..')) throw refused(entry, 'points out of the layer');
  return parts.join('/');
}

/**
 * Attributes that steer overlayfs (`trusted.`) or the host's security modules are the host's to set; capabilities, ACLs and user attributes
 * are the image's.
 */
const isImageXattr = (name: string, type: string): boolean =>
  // The kernel refuses user attributes on anything else.
  (name.startsWith('user.') && (type === '0' || type === '5')) || name === 'security.capability' || name.startsWith('system.posix_acl_');

export const dirOf = (path: string): string => path.slice(0, Math.max(0, path.lastIndexOf('/')));

/** What an entry of an image layer may be, and what its name says about the layers below. Every snapshotter goes by it. */
export class LayerRules {
  readonly #limits: LayerLimits;
  readonly #whiteouts = new Set<string>();
  readonly #opaques = new Set<string>();
  readonly #markers = new Set<string>();
  #entries = 0;
  #sizeBytes = 0;
  #trackedBytes = 0;

  constructor(limits: LayerLimits) {
    this.#limits = limits;
  }

  get entries(): number {
    return this.#entries;
  }

  /**
   * The entry with a relative name ("" is the root), without what means nothing for its type. failedPrecondition when no layer may hold it, resourceExhausted
   * beyond the limits.
   */
  admit(header: TarHeader): TarHeader {
    if (++this.#entries > this.#limits.maxEntries) throw tooMuch(`more than ${this.#limits.maxEntries} entries`);
    this.#sizeBytes += BLOCK_BYTES + header.sizeBytes;
    if (this.#sizeBytes > this.#limits.maxSizeBytes) throw tooMuch(`more than ${this.#limits.maxSizeBytes} bytes`);
    const clean = this.#clean(header);
    if (clean.name === '' && clean.type !== '5') throw refused(header.name, 'is the root and not a directory');
    this.#noteMarker(clean);
    return clean;
  }

  markers(): Markers {
    return { whiteouts: [...this.#whiteouts], opaques: [...this.#opaques], markers: [...this.#markers] };
  }

  /** Counts a name that somebody has to remember. */
  track(path: string): void {
    // What an entry of a set costs beyond its text, roughly.
    this.#trackedBytes += path.length + 64;
    if (this.#trackedBytes > this.#limits.maxTrackedBytes) throw tooMuch('too many directories and whiteouts');
  }

  #clean(header: TarHeader): TarHeader {
    const name = normalise(header.name, header.name, this.#limits);
    const type = header.type === '7' ? '0' : header.type;
    const { xattrs } = header;
    const clean: TarHeader = {
      ...header,
      name,
      type,
      xattrs: xattrs.size === 0 ? xattrs : new Map([...xattrs].filter(([key]) => isImageXattr(key, type) && !key.includes('\0'))),
      linkName: '',
      devMajor: 0,
      devMinor: 0,
    };
    switch (type) {
      case '0':
      case '5':
      case '6':
        return clean;
      case '1': {
        const linkName = normalise(header.linkName, header.name, this.#limits);
        if (linkName === '') throw refused(header.name, 'is a hard link to nothing');
        return { ...clean, linkName };
      }
      case '2':
        if (header.linkName === '' || header.linkName.includes('\0')) throw refused(header.name, 'is a symlink to nothing');
        if (header.linkName.length >= this.#limits.maxPathBytes) throw tooMuch('the target of a symlink is too long');
        return { ...clean, linkName: header.linkName };
      case '3':
      case '4':
        return { ...clean, devMajor: header.devMajor, devMinor: header.devMinor };
      case 'S':
        throw refused(header.name, 'is a sparse file, which image layers may not hold');
      default:
        throw refused(header.name, `is of the unknown type ${JSON.stringify(type)}`);
    }
  }

  #noteMarker({ name, type }: TarHeader): void {
    if (!name.includes(WHITEOUT)) return;
    const parts = name.split('/');
    const base = parts.pop() ?? '';
    // aufs kept files of its own under names like these, in directories too; everything below goes with the topmost.
    const aufs = parts.findIndex((part) => part.startsWith(AUFS));
    if (aufs >= 0) return this.#note(this.#markers, parts.slice(0, aufs + 1).join('/'));
    if (parts.some((part) => part.startsWith(WHITEOUT))) throw refused(name, 'lies below a whiteout');
    if (!base.startsWith(WHITEOUT)) return;
    if (base === OPAQUE) this.#note(this.#opaques, dirOf(name));
    else if (!base.startsWith(AUFS)) {
      const hidden = base.slice(WHITEOUT.length);
      if (type !== '0') throw refused(name, 'is a whiteout and not a regular file');
      if (hidden === '' || hidden === '.' || hidden === '..') throw refused(name, 'is a whiteout of nothing');
      this.#note(this.#whiteouts, [...parts, hidden].join('/'));
    }
    this.#note(this.#markers, name);
  }

  #note(set: Set<string>, path: string): void {
    if (set.has(path)) return;
    this.track(path);
    set.add(path);
  }
}
