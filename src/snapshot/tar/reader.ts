import { ClassifiedError } from '../../base/errors.ts';
import type { TarHeader } from './header.ts';
import { BLOCK_BYTES, corrupt, isZeroBlock, paddingOf, parseHeader } from './header.ts';
import { applyPax, parsePax } from './pax.ts';

/** A PAX header or a GNU long name; xattrs are 64 KiB at most each. */
const MAX_EXTENSION_BYTES = 1 << 20;

export interface TarSink {
  /** `dataOffset`: where in the archive its content begins, a multiple of 512. */
  entry(header: TarHeader, dataOffset: number): void;
  /** Content of the entry last told, in pieces. The buffer is the reader's again when this returns. */
  data(piece: Buffer): void;
  /** All content of the entry last told has come. */
  endEntry(): void;
}

/** Only regular files have content; a size in other headers means nothing (as Go's archive/tar, which built most images, has it). */
const hasContent = (type: string): boolean => type === '0' || type === '7' || !'123456'.includes(type);

/**
 * Streaming reader of ustar, PAX and GNU archives: `push` bytes in any pieces, then `end`. Extension headers are applied, global ones passed over.
 * Errors are dataLoss (malformed, truncated) or resourceExhausted. Bytes after the two zero blocks of the end are ignored.
 */
export class TarReader {
  readonly #sink: TarSink;
  readonly #block = Buffer.alloc(BLOCK_BYTES);
  #blockFilled = 0;
  /** Of the archive, up to the end of the block or content being read. */
  #offset = 0;
  #zeroBlocks = 0;
  #contentLeft = 0;
  #paddingLeft = 0;
  #extension: { readonly type: string; readonly body: Buffer; filled: number } | undefined;
  #pax: Map<string, string> | undefined;
  #longName: string | undefined;
  #longLink: string | undefined;

  constructor(sink: TarSink) {
    this.#sink = sink;
  }

  push(chunk: Buffer): void {
    for (let at = 0; at < chunk.length && this.#zeroBlocks < 2;) at += this.#step(chunk, at);
  }

  /** Some programs leave out the last padding or blocks of zeros; Go's archive/tar, which most images were checked with, takes both. */
  end(): void {
    if (this.#zeroBlocks === 2) return;
    if (this.#contentLeft > 0 || this.#blockFilled > 0 || this.#isExtended()) throw corrupt('it ends too early');
  }

  /** Consumes some of the chunk; how many bytes. */
  #step(chunk: Buffer, at: number): number {
    if (this.#contentLeft > 0) return this.#content(chunk, at);
    if (this.#paddingLeft > 0) {
      const skipped = Math.min(this.#paddingLeft, chunk.length - at);
      this.#paddingLeft -= skipped;
      return skipped;
    }
    if (this.#blockFilled === 0 && chunk.length - at >= BLOCK_BYTES) {
      this.#onBlock(chunk.subarray(at, at + BLOCK_BYTES));
      return BLOCK_BYTES;
    }
    const copied = chunk.copy(this.#block, this.#blockFilled, at, Math.min(chunk.length, at + BLOCK_BYTES - this.#blockFilled));
    this.#blockFilled += copied;
    if (this.#blockFilled === BLOCK_BYTES) {
      this.#blockFilled = 0;
      this.#onBlock(this.#block);
    }
    return copied;
  }

  #content(chunk: Buffer, at: number): number {
    const length = Math.min(this.#contentLeft, chunk.length - at);
    this.#contentLeft -= length;
    const piece = chunk.subarray(at, at + length);
    const extension = this.#extension;
    if (extension) extension.filled += piece.copy(extension.body, extension.filled);
    else this.#sink.data(piece);
    if (this.#contentLeft === 0) this.#endContent();
    return length;
  }

  #endContent(): void {
    const extension = this.#extension;
    if (extension === undefined) return this.#sink.endEntry();
    this.#extension = undefined;
    const { type, body } = extension;
    if (type === 'x') this.#pax = parsePax(body);
    else if (type === 'L') this.#longName = cString(body);
    else if (type === 'K') this.#longLink = cString(body);
  }

  #isExtended(): boolean {
    return this.#pax !== undefined || this.#longName !== undefined || this.#longLink !== undefined;
  }

  #onBlock(block: Buffer): void {
    this.#offset += BLOCK_BYTES;
    if (isZeroBlock(block)) {
      this.#zeroBlocks++;
      return;
    }
    if (this.#zeroBlocks > 0) throw corrupt('a lone block of zeros is in it');
    const raw = parseHeader(block);
    if (raw.type === 'x' || raw.type === 'g' || raw.type === 'L' || raw.type === 'K') return this.#beginExtension(raw);
    const header = this.#isExtended() ? this.#extended(raw) : raw;
    if (header.sizeBytes < 0) throw corrupt('an entry has a negative size');
    const sizeBytes = hasContent(header.type) ? header.sizeBytes : 0;
    this.#sink.entry(header.sizeBytes === sizeBytes ? header : { ...header, sizeBytes }, this.#offset);
    this.#expect(sizeBytes);
    if (sizeBytes === 0) this.#sink.endEntry();
  }

  #extended(raw: TarHeader): TarHeader {
    const long = { ...raw, name: this.#longName ?? raw.name, linkName: this.#longLink ?? raw.linkName };
    const header = this.#pax === undefined ? long : applyPax(long, this.#pax);
    this.#pax = this.#longName = this.#longLink = undefined;
    return header;
  }

  #beginExtension(header: TarHeader): void {
    const { sizeBytes, type } = header;
    if (sizeBytes < 0 || sizeBytes > MAX_EXTENSION_BYTES)
      throw new ClassifiedError('resourceExhausted', `read layer tar: an extension header of ${sizeBytes} bytes`);
    this.#extension = { type, body: Buffer.alloc(sizeBytes), filled: 0 };
    this.#expect(sizeBytes);
    if (sizeBytes === 0) this.#endContent();
  }

  #expect(sizeBytes: number): void {
    this.#contentLeft = sizeBytes;
    this.#paddingLeft = paddingOf(sizeBytes);
    this.#offset += sizeBytes + this.#paddingLeft;
  }
}

const cString = (body: Buffer): string => {
  const end = body.indexOf(0);
  return body.toString('latin1', 0, end < 0 ? body.length : end);
};
