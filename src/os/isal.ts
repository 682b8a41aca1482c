import { gzipSync } from 'node:zlib';
import koffi from 'koffi';

/**
 * Inflates gzip with Intel's ISA-L (libisal2) where that is installed: it takes 40 % of the time of zlib (P1). By the library, not by the program `igzip`:
 * no process, and no byte goes through a pipe.
 */
interface Isal {
  init(state: Buffer): void;
  inflate(state: Buffer): number;
}

/** struct inflate_state of igzip_lib.h 2.30 (libisal.so.2): what is read or set of it, and more room than it takes (87,368 bytes). `inflates` finds out whether it is so here. */
const STATE_BYTES = 128 << 10;
const AT = { nextOut: 0, availOut: 8, nextIn: 16, availIn: 32, blockState: 21160, crcFlag: 21172 } as const;
/** The header is read, and the checksum in the trailer is verified. */
const ISAL_GZIP = 1;
const ISAL_BLOCK_FINISH = 5;

const INPUT_BYTES = 256 << 10;
const OUTPUT_BYTES = 256 << 10;

let library: Isal | null | undefined;

/** undefined when it is not installed, or does not do what it should. */
function isal(): Isal | undefined {
  if (library !== undefined) return library ?? undefined;
  library = null;
  try {
    const so = koffi.load('libisal.so.2');
    const init = so.func('void isal_inflate_init(void *state)') as Isal['init'];
    const inflate = so.func('int isal_inflate(void *state)') as Isal['inflate'];
    if (inflates({ init, inflate })) library = { init, inflate };
  } catch {
    // Not there: zlib it is.
  }
  return library ?? undefined;
}

function inflates(candidate: Isal): boolean {
  const sample = Buffer.from('what a layer holds '.repeat(1000));
  const packed = gzipSync(sample);
  const gunzip = new IsalGunzip(candidate);
  const parts: Buffer[] = [];
  packed.copy(gunzip.input);
  gunzip.push(packed.length, (chunk) => parts.push(Buffer.from(chunk)));
  gunzip.end();
  return Buffer.concat(parts).equals(sample);
}

/** One gzip stream of one or more members (RFC 1952, 2.2). Its errors have zlib's codes. */
export class IsalGunzip {
  /** What is to be inflated goes here. */
  readonly input: Buffer = Buffer.allocUnsafeSlow(INPUT_BYTES);
  readonly #isal: Isal;
  readonly #state = Buffer.allocUnsafeSlow(STATE_BYTES);
  readonly #output = Buffer.allocUnsafeSlow(OUTPUT_BYTES);
  readonly #inputAt: bigint = koffi.address(this.input);
  readonly #outputAt: bigint = koffi.address(this.#output);
  #where: 'begin' | 'member' | 'between' | 'padding' = 'begin';

  constructor(library: Isal) {
    this.#isal = library;
  }

  /** undefined where ISA-L can't be used. */
  static readonly open = (): IsalGunzip | undefined => {
    const library = isal();
    return library && new IsalGunzip(library);
  };

  /** Inflates the first `length` bytes of `input`. A chunk is overwritten once `take` has returned. */
  push(length: number, take: (chunk: Buffer) => void): void {
    for (let left = length; left > 0;) {
      const at = length - left;
      // Zeros after a member are padding (gzip's manual, "tapes").
      if (this.#where === 'between' && this.input[at] === 0) this.#where = 'padding';
      if (this.#where === 'padding') return;
      if (this.#where !== 'member') this.#begin();
      this.#state.writeBigUInt64LE(this.#inputAt + BigInt(at), AT.nextIn);
      this.#state.writeUInt32LE(left, AT.availIn);
      this.#drain(take);
      left = this.#state.readUInt32LE(AT.availIn);
    }
  }

  #begin(): void {
    this.#isal.init(this.#state);
    this.#state.writeUInt32LE(ISAL_GZIP, AT.crcFlag);
    this.#where = 'member';
  }

  /** Until the input or the member is at its end, and everything is out. */
  #drain(take: (chunk: Buffer) => void): void {
    for (let left = 0; left === 0 && this.#where === 'member';) {
      this.#state.writeBigUInt64LE(this.#outputAt, AT.nextOut);
      this.#state.writeUInt32LE(OUTPUT_BYTES, AT.availOut);
      const result = this.#isal.inflate(this.#state);
      if (result !== 0) throw damaged(`what was compressed is damaged (ISA-L ${result})`);
      left = this.#state.readUInt32LE(AT.availOut);
      if (left < OUTPUT_BYTES) take(this.#output.subarray(0, OUTPUT_BYTES - left));
      if (this.#state.readInt32LE(AT.blockState) === ISAL_BLOCK_FINISH) this.#where = 'between';
    }
  }

  /** Throws when the stream is cut off. */
  end(): void {
    if (this.#where === 'begin' || this.#where === 'member') throw damaged('unexpected end of file');
  }
}

const damaged = (message: string): Error => Object.assign(new Error(message), { code: 'Z_DATA_ERROR' });
