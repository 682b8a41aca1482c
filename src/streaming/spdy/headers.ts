import { constants, createInflate } from 'node:zlib';
import type { Inflate } from 'node:zlib';
import { counted, DICTIONARY, DICTIONARY_ID } from './dictionary.ts';
import { protocolError } from './frame.ts';

const MAX_BLOCK_BYTES = 65_536;
const MAX_HEADERS = 64;

/** Names are lower case. Of several values only the first is kept. */
export type Headers = ReadonlyMap<string, string>;

/**
 * The client's header blocks are one zlib stream over the whole connection (SPDY/3.1 section 2.6.10.1): every block must be given here, in order and one at
 * a time. About 50 KiB of memory from the first block until `close`.
 */
export class HeaderReader {
  #inflate: Inflate | undefined;
  #fail: ((error: Error) => void) | undefined;
  #parts: Buffer[] = [];
  #sizeBytes = 0;
  #closed = false;

  /** invalidArgument when the block cannot be decompressed, is larger than 64 KiB or is no list of headers. */
  async read(block: Buffer): Promise<Headers> {
    if (this.#closed) throw protocolError('headers after the end');
    this.#inflate ??= this.#open();
    const inflate = this.#inflate;
    this.#parts = [];
    this.#sizeBytes = 0;
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    this.#fail = reject;
    inflate.write(block, (error) => (error ? reject(protocolError(`headers: ${error.message}`)) : resolve()));
    await promise;
    this.#fail = undefined;
    return parse(Buffer.concat(this.#parts));
  }

  close(): void {
    this.#closed = true;
    this.#inflate?.destroy();
    this.#fail?.(protocolError('closed while headers were read'));
  }

  #open(): Inflate {
    const inflate = createInflate({ dictionary: DICTIONARY, flush: constants.Z_SYNC_FLUSH, chunkSize: 4096 });
    inflate.on('data', (part: Buffer) => {
      this.#sizeBytes += part.length;
      if (this.#sizeBytes > MAX_BLOCK_BYTES) {
        this.#fail?.(protocolError(`headers larger than ${MAX_BLOCK_BYTES} bytes`));
        inflate.destroy();
      } else this.#parts.push(part);
    });
    inflate.on('error', (error) => this.#fail?.(protocolError(`headers: ${error.message}`)));
    inflate.on('end', () => this.#fail?.(protocolError('the stream of headers ended')));
    return inflate;
  }
}

/** Exported for tests. */
export function parse(block: Buffer): Headers {
  let at = 0;
  const number = (): number => {
    if (at + 4 > block.length) throw protocolError('header block ends early');
    at += 4;
    return block.readUInt32BE(at - 4);
  };
  const text = (): string => {
    const length = number();
    if (at + length > block.length) throw protocolError('header block ends early');
    at += length;
    return block.toString('latin1', at - length, at);
  };
  const count = number();
  if (count > MAX_HEADERS) throw protocolError(`${count} headers, at most ${MAX_HEADERS} are taken`);
  const headers = new Map<string, string>();
  for (let i = 0; i < count; i++) {
    const name = text().toLowerCase();
    const value = text().split('\0')[0] ?? '';
    if (!headers.has(name)) headers.set(name, value);
  }
  return headers;
}

/** The uncompressed form of a header block. */
export function headerBlock(headers: ReadonlyArray<readonly [name: string, value: string]>): Buffer {
  const count = Buffer.alloc(4);
  count.writeUInt32BE(headers.length);
  return Buffer.concat([count, ...headers.flatMap(([name, value]) => [counted(name), counted(value)])]);
}

/** What a sync flush ends with, a stored piece of nothing: Go's decompressor gives out what it has when it meets one, and fails without. */
const SYNC = Buffer.from([0, 0, 0, 0xff, 0xff]);

/**
 * Our own blocks, as one zlib stream too, but of stored pieces (RFC 1951 section 3.2.4): the server only ever says "no headers", and a compressor would cost
 * 256 KiB for each connection.
 */
export class HeaderWriter {
  #begun = false;

  write(block: Buffer): Buffer {
    const piece = Buffer.alloc(5);
    piece.writeUInt16LE(block.length, 1);
    piece.writeUInt16LE(~block.length & 0xffff, 3);
    const start = this.#begun ? Buffer.alloc(0) : zlibHeader();
    this.#begun = true;
    return Buffer.concat([start, piece, block, SYNC]);
  }
}

/** RFC 1950 section 2.2: deflate with a 32 KiB window, FDICT, and a check that makes the pair a multiple of 31. */
function zlibHeader(): Buffer {
  const header = Buffer.from([0x78, 0x20, 0, 0, 0, 0]);
  header.writeUInt8(0x20 + 31 - (header.readUInt16BE(0) % 31), 1);
  header.writeUInt32BE(DICTIONARY_ID, 2);
  return header;
}
