import { ClassifiedError } from '../../base/errors.ts';

export const VERSION = 3;
export const HEADER_BYTES = 8;
export const FLAG_FIN = 1;
/** Of a stream and of the session, until SETTINGS or WINDOW_UPDATE say otherwise. */
export const INITIAL_WINDOW_BYTES = 65_536;
/** A window beyond this is a flow control error. */
export const MAX_WINDOW_BYTES = 2 ** 31 - 1;
/** Control frames of Kubernetes' clients have a few hundred bytes. */
export const MAX_CONTROL_BYTES = 16_384;

export const TYPE = {
  synStream: 1,
  synReply: 2,
  rstStream: 3,
  settings: 4,
  ping: 6,
  goAway: 7,
  headers: 8,
  windowUpdate: 9,
} as const;

export const RST = {
  protocolError: 1,
  invalidStream: 2,
  refusedStream: 3,
  cancel: 5,
  flowControlError: 7,
  streamAlreadyClosed: 9,
} as const;
export const GO_AWAY = { ok: 0, protocolError: 1 } as const;
export const SETTINGS_INITIAL_WINDOW = 7;

export type Frame =
  /** A part of a DATA frame: what has arrived is passed on, `fin` stands on the last part. */
  | { readonly type: 'data'; readonly streamId: number; readonly chunk: Buffer; readonly fin: boolean }
  | { readonly type: 'synStream'; readonly streamId: number; readonly fin: boolean; readonly block: Buffer }
  /** HEADERS and SYN_REPLY: they add headers to a stream. */
  | { readonly type: 'headers'; readonly streamId: number; readonly fin: boolean; readonly block: Buffer }
  | { readonly type: 'rstStream'; readonly streamId: number; readonly status: number }
  | { readonly type: 'settings'; readonly initialWindowBytes: number | undefined }
  | { readonly type: 'ping'; readonly id: number; readonly bytes: Buffer }
  | { readonly type: 'goAway' }
  | { readonly type: 'windowUpdate'; readonly streamId: number; readonly deltaBytes: number };

export const protocolError = (what: string): ClassifiedError => new ClassifiedError('invalidArgument', `spdy: ${what}`);

/**
 * Cuts a connection's bytes into frames (SPDY/3.1 section 2.2). Holds at most one control frame; data is never gathered. Throws invalidArgument on
 * bytes that are no frame; nothing can be read after that. Control frames of unknown type are passed over, as the specification asks.
 */
export class FrameReader {
  readonly #header = Buffer.alloc(HEADER_BYTES);
  #headerFilled = 0;
  #control: Buffer | undefined;
  #controlFilled = 0;
  #data: { readonly streamId: number; readonly fin: boolean; left: number } | undefined;

  *push(bytes: Buffer): Generator<Frame, void, void> {
    let rest = bytes;
    while (rest.length > 0) {
      if (this.#data) {
        const chunk = rest.subarray(0, this.#data.left);
        rest = rest.subarray(chunk.length);
        const { streamId, fin } = this.#data;
        this.#data.left -= chunk.length;
        const last = this.#data.left === 0;
        if (last) this.#data = undefined;
        yield { type: 'data', streamId, chunk, fin: fin && last };
      } else if (this.#control) {
        const taken = rest.copy(this.#control, this.#controlFilled);
        rest = rest.subarray(taken);
        this.#controlFilled += taken;
        if (this.#controlFilled === this.#control.length) yield* this.#endControl(this.#control);
      } else {
        const taken = rest.copy(this.#header, this.#headerFilled);
        rest = rest.subarray(taken);
        this.#headerFilled += taken;
        if (this.#headerFilled === HEADER_BYTES) yield* this.#beginFrame();
      }
    }
  }

  *#beginFrame(): Generator<Frame, void, void> {
    this.#headerFilled = 0;
    const length = this.#header.readUInt32BE(4) & 0xffffff;
    const fin = (this.#header.readUInt8(4) & FLAG_FIN) !== 0;
    const first = this.#header.readUInt32BE(0);
    if (first < 0x80000000) {
      if (first === 0) throw protocolError('data on stream 0');
      if (length > 0) this.#data = { streamId: first, fin, left: length };
      else yield { type: 'data', streamId: first, chunk: Buffer.alloc(0), fin };
      return;
    }
    const version = (first >>> 16) & 0x7fff;
    if (version !== VERSION) throw protocolError(`version ${version} in a control frame`);
    if (length > MAX_CONTROL_BYTES) throw protocolError(`control frame of ${length} bytes, at most ${MAX_CONTROL_BYTES} are taken`);
    this.#control = Buffer.alloc(length);
    this.#controlFilled = 0;
    if (length === 0) yield* this.#endControl(this.#control);
  }

  *#endControl(payload: Buffer): Generator<Frame, void, void> {
    this.#control = undefined;
    const frame = parseControl(this.#header.readUInt16BE(2), (this.#header.readUInt8(4) & FLAG_FIN) !== 0, payload);
    if (frame) yield frame;
  }
}

/** The least payload of each type; most are of exactly this size. */
const LEAST_BYTES: Readonly<Record<number, number>> = {
  [TYPE.synStream]: 10,
  [TYPE.synReply]: 4,
  [TYPE.rstStream]: 8,
  [TYPE.settings]: 4,
  [TYPE.ping]: 4,
  [TYPE.goAway]: 4,
  [TYPE.headers]: 4,
  [TYPE.windowUpdate]: 8,
};

function parseControl(type: number, fin: boolean, payload: Buffer): Frame | undefined {
  if (payload.length < (LEAST_BYTES[type] ?? 0)) throw protocolError(`control frame of type ${type} with ${payload.length} bytes`);
  const streamId = (): number => {
    const id = payload.readUInt32BE(0) & 0x7fffffff;
    if (id === 0 && type !== TYPE.windowUpdate) throw protocolError(`control frame of type ${type} for stream 0`);
    return id;
  };
  switch (type) {
    case TYPE.synStream:
      return { type: 'synStream', streamId: streamId(), fin, block: payload.subarray(10) };
    case TYPE.synReply:
    case TYPE.headers:
      return { type: 'headers', streamId: streamId(), fin, block: payload.subarray(4) };
    case TYPE.rstStream:
      return { type: 'rstStream', streamId: streamId(), status: payload.readUInt32BE(4) };
    case TYPE.settings:
      return { type: 'settings', initialWindowBytes: parseSettings(payload) };
    case TYPE.ping:
      return { type: 'ping', id: payload.readUInt32BE(0), bytes: payload.subarray(0, 4) };
    case TYPE.goAway:
      return { type: 'goAway' };
    case TYPE.windowUpdate:
      return { type: 'windowUpdate', streamId: streamId(), deltaBytes: payload.readUInt32BE(4) & 0x7fffffff };
    default:
      return undefined;
  }
}

function parseSettings(payload: Buffer): number | undefined {
  const count = payload.readUInt32BE(0);
  if (payload.length !== 4 + 8 * count) throw protocolError(`settings of ${payload.length} bytes with ${count} entries`);
  let window: number | undefined;
  for (let at = 4; at < payload.length; at += 8)
    if ((payload.readUInt32BE(at) & 0xffffff) === SETTINGS_INITIAL_WINDOW) window = payload.readUInt32BE(at + 4);
  if (window !== undefined && window > MAX_WINDOW_BYTES) throw protocolError(`initial window of ${window} bytes`);
  return window;
}

/** Eight bytes; the `length` bytes of data come behind them. */
export function dataHeader(streamId: number, length: number, fin: boolean): Buffer {
  const header = Buffer.allocUnsafe(HEADER_BYTES);
  header.writeUInt32BE(streamId, 0);
  header.writeUInt32BE(length, 4);
  header.writeUInt8(fin ? FLAG_FIN : 0, 4);
  return header;
}

export function controlFrame(type: number, flags: number, ...parts: ReadonlyArray<number | Buffer>): Buffer {
  const payload = Buffer.concat(
    parts.map((part) => {
      if (typeof part !== 'number') return part;
      const word = Buffer.allocUnsafe(4);
      word.writeUInt32BE(part);
      return word;
    }),
  );
  const header = Buffer.allocUnsafe(HEADER_BYTES);
  header.writeUInt32BE((0x80000000 | (VERSION << 16) | type) >>> 0, 0);
  header.writeUInt32BE(payload.length, 4);
  header.writeUInt8(flags, 4);
  return Buffer.concat([header, payload]);
}
