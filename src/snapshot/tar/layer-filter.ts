import type { TarHeader } from './header.ts';
import { BLOCK_BYTES, encodeHeader, paddingOf } from './header.ts';
import type { LayerLimits, Markers } from './layer-rules.ts';
import { dirOf, LAYER_LIMITS, LayerRules } from './layer-rules.ts';
import type { TarSink } from './reader.ts';

/** What is to be done after extraction. */
export interface LayerChanges extends Markers {
  /** Directories with content but without an entry of their own, parents first: theirs are the attributes of the layer below. */
  readonly impliedDirs: readonly string[];
  readonly entries: number;
}

/**
 * Between the reader and the tar program: that program sees only headers that we wrote, canonical and checked, never the archive's own, so that no
 * quirk of its parser can be reached (other formats, sparse maps, `..`, absolute names, overlayfs attributes). What an image layer
 * means beyond a tar (OCI image-spec, "Layer Filesystem Changeset") is collected in `changes`.
 */
export class LayerFilter implements TarSink {
  readonly #write: (bytes: Buffer) => void;
  readonly #rules: LayerRules;
  /** true: has an entry of its own. */
  readonly #dirs = new Map<string, boolean>([['', false]]);
  #padding = 0;

  /** `write` takes the bytes at once or copies them. */
  constructor(write: (bytes: Buffer) => void, limits: LayerLimits = LAYER_LIMITS) {
    this.#write = write;
    this.#rules = new LayerRules(limits);
  }

  entry(header: TarHeader): void {
    const clean = this.#rules.admit(header);
    this.#noteDirs(clean);
    this.#padding = paddingOf(clean.sizeBytes);
    this.#write(encodeHeader({ ...clean, name: clean.name === '' ? './' : clean.type === '5' ? `${clean.name}/` : clean.name }));
  }

  data(piece: Buffer): void {
    this.#write(piece);
  }

  endEntry(): void {
    if (this.#padding > 0) this.#write(Buffer.alloc(this.#padding));
    this.#padding = 0;
  }

  /** Writes the end of the archive. */
  end(): LayerChanges {
    this.#write(Buffer.alloc(2 * BLOCK_BYTES));
    const implied = [...this.#dirs].filter(([, own]) => !own).map(([path]) => path);
    return {
      ...this.#rules.markers(),
      impliedDirs: implied.sort((a, b) => a.length - b.length),
      entries: this.#rules.entries,
    };
  }

  #noteDirs({ name, type }: TarHeader): void {
    if (name !== '') this.#noteImplied(dirOf(name));
    if (type === '5') this.#noteDir(name, true);
    // The last entry of a name is the one that counts.
    else if (this.#dirs.get(name) !== undefined) this.#dirs.delete(name);
  }

  #noteImplied(path: string): void {
    for (let at = path; !this.#dirs.has(at); at = dirOf(at)) {
      this.#noteDir(at, false);
      if (at === '') return;
    }
  }

  #noteDir(path: string, own: boolean): void {
    if (!this.#dirs.has(path)) this.#rules.track(path);
    this.#dirs.set(path, own || this.#dirs.get(path) === true);
  }
}
