import { createCipheriv, createHash } from 'node:crypto';
import type { Cipheriv } from 'node:crypto';
import type { Entry } from '../../images/tree.ts';

/** An image to pull, the same bytes each time it is made. */
export interface ImagePlan {
  readonly name: string;
  readonly layers: number;
  /** What a layer holds, with sizes or numbers of files times `scale`. */
  entries(layer: number, scale: number): Iterable<Entry>;
}

const MIB = 1 << 20;

/** Numbers and bytes that look random and are the same for the same seed. */
class Chance {
  readonly #cipher: Cipheriv;
  #numbers: Buffer = Buffer.alloc(0);
  #at = 0;

  constructor(seed: string) {
    this.#cipher = createCipheriv('aes-128-ctr', createHash('sha256').update(seed).digest().subarray(0, 16), Buffer.alloc(16));
  }

  bytes(count: number): Buffer {
    return this.#cipher.update(Buffer.alloc(count));
  }

  below(limit: number): number {
    if (this.#at === this.#numbers.length) [this.#numbers, this.#at] = [this.bytes(64 << 10), 0];
    this.#at += 4;
    return this.#numbers.readUInt32LE(this.#at - 4) % limit;
  }
}

const TEXT_BYTES = 16 * MIB;
const LETTERS = 'etaoinshrdlucmfwypvbgkjqxz';
let text: Buffer | undefined;

/** Words in no order: gzip makes about a quarter of it, by no more repetition than text has. */
function pool(): Buffer {
  if (text !== undefined) return text;
  const chance = new Chance('text');
  const word = (): string => Array.from({ length: 2 + chance.below(12) }, () => LETTERS[chance.below(LETTERS.length)]).join('');
  const words = Array.from({ length: 1000 }, word);
  const parts: string[] = [];
  for (let bytes = 0; bytes < TEXT_BYTES; bytes += parts.at(-1)!.length + 1) {
    // Common words are more common.
    parts.push(words[Math.min(chance.below(words.length), chance.below(words.length))]!);
  }
  text = Buffer.from(parts.join(' ')).subarray(0, TEXT_BYTES);
  return text;
}

function textOf(chance: Chance, sizeBytes: number): Buffer {
  const pieces: Buffer[] = [];
  for (let left = sizeBytes; left > 0;) {
    const offset = chance.below(TEXT_BYTES);
    const piece = pool().subarray(offset, offset + left);
    pieces.push(piece);
    left -= piece.length;
  }
  return Buffer.concat(pieces);
}

/** Half of the files are below half of the mean size, a few are four times as large. */
function* files(layer: number, count: number, meanBytes: number): Iterable<Entry> {
  const chance = new Chance(`files ${layer} ${meanBytes}`);
  for (let n = 0; n < count; n++) {
    const sizeBytes = Math.floor(4 * meanBytes * (chance.below(1 << 20) / (1 << 20)) ** 3);
    yield { path: `/usr/share/layer-${layer}/dir-${Math.floor(n / 100)}/file-${n}`, data: textOf(chance, sizeBytes) };
  }
}

/** At least one of what a scale leaves. */
const scaled = (count: number, scale: number): number => Math.max(1, Math.round(count * scale));

export const PLANS: readonly ImagePlan[] = [
  {
    name: 'small-files',
    layers: 4,
    entries: (layer, scale) => files(layer, scaled(25_000, scale), 15_600),
  },
  {
    name: 'large-files',
    layers: 3,
    *entries(layer, scale) {
      const chance = new Chance(`large ${layer}`);
      const sizeBytes = scaled(128 * MIB, scale);
      yield { path: `/opt/model-${layer}.bin`, data: chance.bytes(sizeBytes) };
      yield { path: `/opt/table-${layer}.txt`, data: textOf(chance, sizeBytes) };
    },
  },
  {
    // As images are that were built step by step: every fifth step installs something, the others change a few files.
    name: '30-layers',
    layers: 30,
    entries: (layer, scale) => files(layer, scaled(layer % 5 === 0 ? 2000 : 10, scale), 16_000),
  },
];

/** What a second image has on top of the same layers. */
export const topEntries = (name: string): Iterable<Entry> => files(1000, 10, 1000 + name.length);
