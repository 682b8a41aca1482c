import { once } from 'node:events';
import type { IncomingMessage } from 'node:http';
import { request as httpRequest } from 'node:http';
import { request as httpsRequest } from 'node:https';
import { Duplex } from 'node:stream';
import { constants, createDeflate, createInflate } from 'node:zlib';
import { DICTIONARY } from '../../src/streaming/spdy/dictionary.ts';
import type { Frame } from '../../src/streaming/spdy/frame.ts';
import {
  controlFrame,
  dataHeader,
  FrameReader,
  INITIAL_WINDOW_BYTES,
  RST,
  SETTINGS_INITIAL_WINDOW,
  TYPE,
} from '../../src/streaming/spdy/frame.ts';
import { headerBlock, parse } from '../../src/streaming/spdy/headers.ts';

export interface DialOptions {
  readonly protocols: readonly string[];
  /** With 'none' the client does as spdystream does: it neither obeys windows nor opens them. */
  readonly flowControl?: 'none' | 'obeys';
  readonly initialWindowBytes?: number;
  /** Certificate of the server, PEM. */
  readonly ca?: string;
}

/** The server's refusal to switch protocols. */
export class Refused extends Error {
  readonly status: number;
  readonly headers: IncomingMessage['headers'];

  constructor(response: IncomingMessage, body: string) {
    super(body.trim());
    this.status = response.statusCode ?? 0;
    this.headers = response.headers;
  }
}

/** Sends the upgrade request like client-go's round tripper does. Throws Refused. */
export async function upgradeToSpdy(url: string, options: DialOptions): Promise<{ socket: Duplex; head: Buffer; protocol: string }> {
  const make = url.startsWith('https:') ? httpsRequest : httpRequest;
  const request = make(url, {
    method: 'POST',
    ca: options.ca,
    agent: false,
    headers: { Connection: 'Upgrade', Upgrade: 'SPDY/3.1', 'X-Stream-Protocol-Version': [...options.protocols], 'Content-Length': 0 },
  });
  request.end();
  const { promise, resolve, reject } = Promise.withResolvers<{ socket: Duplex; head: Buffer; protocol: string }>();
  request.on('error', reject);
  request.on('upgrade', (response, socket, head) =>
    resolve({ socket, head, protocol: String(response.headers['x-stream-protocol-version']) }),
  );
  request.on('response', (response) => {
    let body = '';
    response.on('data', (part: Buffer) => (body += part.toString()));
    response.on('end', () => reject(new Refused(response, body)));
  });
  return promise;
}

/** The client's side of SPDY/3.1, for tests: plain code over node:zlib, with or without flow control. */
export class SpdyClient {
  readonly transport: Duplex;
  readonly protocol: string;
  /** WINDOW_UPDATE frames that the server sent. */
  windowUpdates = 0;
  pongs: number[] = [];
  /** Pings of the server's, which the client answers. */
  pings: number[] = [];
  goneAway = false;
  readonly obeys: boolean;
  sendWindowBytes = INITIAL_WINDOW_BYTES;
  readonly initialWindowBytes: number;
  readonly closed: Promise<void>;
  readonly streams = new Map<number, SpdyClientStream>();
  readonly #deflate = createDeflate({ dictionary: DICTIONARY, flush: constants.Z_SYNC_FLUSH });
  readonly #inflate = createInflate({ dictionary: DICTIONARY, flush: constants.Z_SYNC_FLUSH });
  #compressing: Promise<unknown> = Promise.resolve();
  #nextId = 1;

  static async dial(url: string, options: DialOptions): Promise<SpdyClient> {
    const { socket, head, protocol } = await upgradeToSpdy(url, options);
    if (head.length > 0) socket.unshift(head);
    return new SpdyClient(socket, protocol, options);
  }

  constructor(transport: Duplex, protocol: string, options: Omit<DialOptions, 'protocols'> = {}) {
    this.transport = transport;
    this.protocol = protocol;
    this.obeys = options.flowControl === 'obeys';
    this.initialWindowBytes = options.initialWindowBytes ?? INITIAL_WINDOW_BYTES;
    transport.on('error', () => {});
    this.closed = new Promise((resolve) => transport.once('close', () => resolve()));
    if (this.obeys) transport.write(controlFrame(TYPE.settings, 0, 1, SETTINGS_INITIAL_WINDOW, this.initialWindowBytes));
    void this.#run();
  }

  /** Opens a stream and waits until the server has accepted it. Throws when it is refused. */
  async open(headers: Record<string, string>): Promise<SpdyClientStream> {
    const stream = await this.send(headers);
    await stream.replied;
    return stream;
  }

  /** Opens a stream without waiting. */
  async send(headers: Record<string, string>): Promise<SpdyClientStream> {
    const id = this.#nextId;
    this.#nextId += 2;
    const stream = new SpdyClientStream(this, id);
    this.streams.set(id, stream);
    // Go's http.Header spells names like Streamtype; spdystream writes them in lower case.
    const pairs = Object.entries(headers).map(([name, value]) => [name.toLowerCase(), value] as const);
    const frame = this.#compressing.then(async () =>
      controlFrame(TYPE.synStream, 0, id, 0, Buffer.alloc(2), await this.#compress(headerBlock(pairs))),
    );
    this.#compressing = frame;
    this.transport.write(await frame);
    return stream;
  }

  ping(id = 1): void {
    this.transport.write(controlFrame(TYPE.ping, 0, id));
  }

  /** As client-go ends: resets what is open, says GOAWAY, closes. */
  async close(): Promise<void> {
    for (const stream of this.streams.values()) stream.destroy();
    this.transport.end(controlFrame(TYPE.goAway, 0, 0, 0));
    this.transport.destroy();
    await this.closed;
  }

  async #compress(block: Buffer): Promise<Buffer> {
    await new Promise((resolve) => this.#deflate.write(block, resolve));
    const parts: Buffer[] = [];
    for (let part: Buffer | null; (part = this.#deflate.read() as Buffer | null) !== null;) parts.push(part);
    return Buffer.concat(parts);
  }

  async #run(): Promise<void> {
    const reader = new FrameReader();
    try {
      for await (const bytes of this.transport as AsyncIterable<Buffer>) for (const frame of reader.push(bytes)) await this.#handle(frame);
    } catch {
      // The connection is over, however.
    }
    this.#deflate.destroy();
    this.#inflate.destroy();
    for (const stream of this.streams.values()) stream.lost();
  }

  async #handle(frame: Frame): Promise<void> {
    if (frame.type === 'headers') {
      await new Promise((resolve) => this.#inflate.write(frame.block, resolve));
      parse(this.#inflate.read() as Buffer);
      this.streams.get(frame.streamId)?.reply();
    } else if (frame.type === 'data') {
      await this.streams.get(frame.streamId)?.receive(frame.chunk, frame.fin);
    } else if (frame.type === 'rstStream') {
      this.streams.get(frame.streamId)?.lost(frame.status);
    } else if (frame.type === 'ping') {
      if (frame.id % 2 === 1) this.pongs.push(frame.id);
      else {
        this.pings.push(frame.id);
        this.transport.write(controlFrame(TYPE.ping, 0, frame.id));
      }
    } else if (frame.type === 'goAway') this.goneAway = true;
    else if (frame.type === 'windowUpdate') {
      this.windowUpdates++;
      if (frame.streamId === 0) this.sendWindowBytes += frame.deltaBytes;
      else {
        const stream = this.streams.get(frame.streamId);
        if (stream) stream.sendWindowBytes += frame.deltaBytes;
      }
      for (const stream of this.streams.values()) stream.pump();
    }
  }
}

export class SpdyClientStream extends Duplex {
  readonly id: number;
  readonly replied: Promise<void>;
  sendWindowBytes = INITIAL_WINDOW_BYTES;
  /** Most that the server has sent beyond what was granted to it; stays 0 where flow control works. */
  overrunBytes = 0;
  resetStatus: number | undefined;
  readonly #client: SpdyClient;
  readonly #reply: (error?: Error) => void;
  #receiveWindowBytes: number;
  #output: { chunk: Buffer; done: (error?: Error | null) => void } | undefined;
  #readWanted: (() => void) | undefined;
  #over = false;

  constructor(client: SpdyClient, id: number) {
    super({ highWaterMark: 65_536 });
    this.id = id;
    this.#client = client;
    this.#receiveWindowBytes = client.initialWindowBytes;
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    this.replied = promise;
    promise.catch(() => {});
    this.#reply = (error) => (error ? reject(error) : resolve());
    this.on('error', () => {});
  }

  reply(): void {
    this.#reply();
  }

  /** Waits while nobody reads, like spdystream's frame handlers do. */
  async receive(chunk: Buffer, fin: boolean): Promise<void> {
    if (this.destroyed) return;
    this.#receiveWindowBytes -= chunk.length;
    this.overrunBytes = Math.max(this.overrunBytes, -this.#receiveWindowBytes);
    if (chunk.length > 0 && !this.push(chunk)) {
      const { promise, resolve } = Promise.withResolvers<void>();
      this.#readWanted = resolve;
      await promise;
    }
    if (fin) this.push(null);
    if (this.#client.obeys && chunk.length > 0) {
      this.#receiveWindowBytes += chunk.length;
      this.#client.transport.write(controlFrame(TYPE.windowUpdate, 0, this.id, chunk.length));
      this.#client.transport.write(controlFrame(TYPE.windowUpdate, 0, 0, chunk.length));
    }
  }

  /** The server reset the stream, or the connection is over. */
  lost(status?: number): void {
    this.resetStatus ??= status;
    this.#over = true;
    this.#reply(new Error(status === undefined ? 'the connection is over' : `the stream was reset: ${status}`));
    if (!this.readableEnded && !this.destroyed) this.push(null);
    this.#readWanted?.();
    this.#output?.done(new Error('the stream was reset'));
    this.#output = undefined;
    if (status !== undefined) this.destroy();
  }

  override _read(): void {
    this.#readWanted?.();
    this.#readWanted = undefined;
  }

  override _write(chunk: Buffer, _encoding: BufferEncoding, done: (error?: Error | null) => void): void {
    if (this.#over) return done(new Error('the stream is over'));
    if (chunk.length === 0) return done();
    this.#output = { chunk, done };
    this.pump();
  }

  pump(): void {
    const output = this.#output;
    if (!output) return;
    const window = this.#client.obeys ? Math.min(this.sendWindowBytes, this.#client.sendWindowBytes) : Infinity;
    const size = Math.min(window, output.chunk.length);
    if (size <= 0) return;
    const part = output.chunk.subarray(0, size);
    output.chunk = output.chunk.subarray(size);
    this.sendWindowBytes -= size;
    this.#client.sendWindowBytes -= size;
    const last = output.chunk.length === 0;
    if (last) this.#output = undefined;
    this.#client.transport.write(dataHeader(this.id, size, false));
    this.#client.transport.write(part, last ? (error) => output.done(error) : undefined);
  }

  override _final(done: () => void): void {
    if (!this.#over) this.#client.transport.write(dataHeader(this.id, 0, true));
    done();
  }

  override _destroy(error: Error | null, done: (error?: Error | null) => void): void {
    if (!this.#over && !(this.readableEnded && this.writableFinished))
      this.#client.transport.write(controlFrame(TYPE.rstStream, 0, this.id, RST.cancel));
    this.#over = true;
    this.#readWanted?.();
    done(error);
  }

  /** All that the server sends, until its half-close. */
  async all(): Promise<Buffer> {
    const parts: Buffer[] = [];
    for await (const part of this as AsyncIterable<Buffer>) parts.push(part);
    return Buffer.concat(parts);
  }

  async say(text: string | Buffer): Promise<void> {
    if (!this.write(text)) await once(this, 'drain');
  }
}
