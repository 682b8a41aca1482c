import type { Duplex } from 'node:stream';
import { ClassifiedError, wrap } from '../../base/errors.ts';
import { ClientStream } from '../client-stream.ts';
import type { StreamOwner } from '../client-stream.ts';
import { InputGate } from '../input-gate.ts';
import type { StreamingLimits } from '../limits.ts';
import { Watchdog } from '../watchdog.ts';
import type { Frame } from './frame.ts';
import { controlFrame, dataHeader, FrameReader, GO_AWAY, INITIAL_WINDOW_BYTES, protocolError, RST, TYPE } from './frame.ts';
import { headerBlock, HeaderReader, HeaderWriter } from './headers.ts';
import type { Headers } from './headers.ts';
import { ReceiveWindow, SendWindow } from './window.ts';

/** Of one DATA frame of ours; the client's may be larger. */
const MAX_DATA_BYTES = 32_768;
/** For a last frame to reach the client. */
const FAREWELL_MS = 1000;

type Done = (error?: Error | null) => void;

interface SpdyOptions {
  readonly limits: StreamingLimits;
  /** Whether a stream with these headers is wanted; else it is refused. */
  readonly accepts: (headers: Headers) => boolean;
  /** Called after the client was told that it has its stream. */
  readonly onStream: (stream: ClientStream, headers: Headers) => void;
}

interface StreamState {
  readonly stream: ClientStream;
  readonly sendWindow: SendWindow;
  readonly receiveWindow: ReceiveWindow;
  outputEnded: boolean;
  /** The client reset it, so there is nobody to tell. */
  reset: boolean;
}

/**
 * The server's side of one SPDY/3.1 connection over any byte stream. It ends, with all of its streams, when the client closes, breaks the protocol, idles or
 * does not read (`limits`), or by `end`; `closed` then says why.
 *
 * Flow control: Kubernetes' clients (spdystream) neither obey windows nor ever send WINDOW_UPDATE or SETTINGS, so a server that obeyed to the letter would
 * stop after 64 KiB. `#peer` is what the client has shown. One that does flow control gets it; with the others TCP's own does the work, both ways.
 */
export class SpdyConnection implements StreamOwner {
  readonly closed: Promise<ClassifiedError>;
  readonly outputLimitBytes: number;
  readonly #transport: Duplex;
  readonly #options: SpdyOptions;
  readonly #streams = new Map<number, StreamState>();
  /** Output that waits for a window or for the transport, in the order of turns. */
  readonly #outputs = new Map<StreamState, { chunk: Buffer; readonly done: Done }>();
  readonly #headerReader = new HeaderReader();
  readonly #headerWriter = new HeaderWriter();
  readonly #sendWindow = new SendWindow();
  readonly #receiveWindow = new ReceiveWindow();
  readonly #watchdog: Watchdog;
  readonly #gate: InputGate;
  readonly #resolveClosed: (reason: ClassifiedError) => void;
  #peer: 'unknown' | 'obeys' | 'ignores' = 'unknown';
  /** Of the client's streams, as its SETTINGS say. */
  #initialWindowBytes = INITIAL_WINDOW_BYTES;
  #room: PromiseWithResolvers<void> | undefined;
  #transportFull = false;
  #lastStreamId = 0;
  #pingId = 0;
  #acceptsStreams = true;
  #ended = false;

  constructor(transport: Duplex, options: SpdyOptions) {
    const { promise, resolve } = Promise.withResolvers<ClassifiedError>();
    this.closed = promise;
    this.#resolveClosed = resolve;
    this.#transport = transport;
    this.#options = options;
    this.outputLimitBytes = options.limits.backlogBytes;
    this.#watchdog = new Watchdog(options.limits, (error) => this.end(error));
    this.#gate = new InputGate({
      maxBytes: options.limits.backlogBytes,
      keepAliveMs: options.limits.keepAliveMs,
      hold: () => (this.#room = Promise.withResolvers()),
      release: () => {
        this.#room?.resolve();
        this.#room = undefined;
      },
      // The server's ids are even. The client's answer is read some time later.
      probe: () => this.#control(TYPE.ping, (this.#pingId = (this.#pingId + 2) % 0x7ffffffe)),
    });
    transport.on('error', () => {});
    transport.on('close', () => this.#finish(new ClassifiedError('cancelled', 'the client closed the connection')));
    transport.on('drain', () => {
      this.#transportFull = false;
      this.#watchdog.progress();
      this.#pumpAll();
    });
    void this.#run();
  }

  /** From now on streams are refused; frees what is needed to open one. */
  acceptNoMore(): void {
    this.#acceptsStreams = false;
    this.#headerReader.close();
  }

  /** Tells the client, as far as it still listens, and ends everything. */
  end(reason: ClassifiedError): void {
    if (this.#ended) return;
    if (!this.#transport.destroyed) {
      const status = reason.kind === 'invalidArgument' ? GO_AWAY.protocolError : GO_AWAY.ok;
      const timer = setTimeout(() => this.#transport.destroy(), FAREWELL_MS).unref();
      this.#transport.once('close', () => clearTimeout(timer));
      this.#transport.end(controlFrame(TYPE.goAway, 0, this.#lastStreamId, status), () => this.#transport.destroy());
    }
    this.#finish(reason);
  }

  write(stream: ClientStream, chunk: Buffer, done: Done): void {
    const state = this.#streams.get(stream.id);
    if (!state || this.#ended) return done(new ClassifiedError('cancelled', 'the stream is closed'));
    this.#watchdog.writeBegins();
    const ends: Done = (error) => {
      this.#watchdog.writeEnds();
      done(error);
    };
    this.#outputs.set(state, { chunk, done: ends });
    this.#pump(state);
  }

  endOutput(stream: ClientStream, done: Done): void {
    const state = this.#streams.get(stream.id);
    if (state && !this.#ended) {
      state.outputEnded = true;
      this.#transport.write(dataHeader(stream.id, 0, true));
    }
    done();
  }

  queued(bytes: number): void {
    this.#gate.add(bytes);
  }

  taken(stream: ClientStream, size: number, bytes: number): void {
    this.#gate.take(bytes);
    if (this.#ended || this.#peer === 'ignores') return;
    const state = this.#streams.get(stream.id);
    const obeys = this.#peer === 'obeys';
    if (state && !stream.inputEnded) this.#grant(stream.id, state.receiveWindow.take(size, obeys));
    this.#grant(0, this.#receiveWindow.take(size, obeys));
  }

  closedStream(stream: ClientStream): void {
    const state = this.#streams.get(stream.id);
    if (!state) return;
    this.#streams.delete(stream.id);
    const output = this.#outputs.get(state);
    this.#outputs.delete(state);
    output?.done(new ClassifiedError('cancelled', 'the stream is closed'));
    if (this.#ended || state.reset || (state.outputEnded && stream.inputEnded)) return;
    this.#control(TYPE.rstStream, stream.id, RST.cancel);
  }

  overflowed(): void {
    this.end(new ClassifiedError('resourceExhausted', `the client is behind by more than ${this.outputLimitBytes} bytes`));
  }

  async #run(): Promise<void> {
    const reader = new FrameReader();
    try {
      // A last frame may be on its way when the loop is left.
      const input = this.#transport.iterator({ destroyOnReturn: false }) as AsyncIterable<Buffer>;
      for await (const bytes of input) {
        this.#watchdog.active();
        for (const frame of reader.push(bytes)) {
          if (frame.type === 'synStream') await this.#openStream(frame.streamId, frame.fin, frame.block);
          else if (frame.type === 'headers') await this.#moreHeaders(frame.streamId, frame.fin, frame.block);
          else this.#handle(frame);
          if (this.#ended) return;
        }
        await this.#room?.promise;
      }
      this.end(new ClassifiedError('cancelled', 'the client closed the connection'));
    } catch (error) {
      this.end(error instanceof ClassifiedError ? error : wrap('connection to the client', error, 'cancelled'));
    }
  }

  #handle(frame: Exclude<Frame, { type: 'synStream' | 'headers' }>): void {
    switch (frame.type) {
      case 'data':
        return this.#receive(frame.streamId, frame.chunk, frame.fin);
      case 'rstStream':
        return this.#resetByClient(frame.streamId);
      case 'settings':
        return this.#settings(frame.initialWindowBytes);
      case 'ping':
        // Even ids answer our own.
        if (frame.id % 2 === 1) this.#control(TYPE.ping, frame.id);
        return;
      case 'windowUpdate':
        return this.#windowUpdate(frame.streamId, frame.deltaBytes);
      case 'goAway':
        // The client opens no more streams. Its end is when it closes.
        this.#acceptsStreams = false;
    }
  }

  async #openStream(id: number, fin: boolean, block: Buffer): Promise<void> {
    if (!this.#acceptsStreams) return this.#control(TYPE.rstStream, id, RST.refusedStream);
    const headers = await this.#headerReader.read(block);
    if (this.#ended) return;
    if (id % 2 === 0 || id <= this.#lastStreamId) return this.#control(TYPE.rstStream, id, RST.protocolError);
    this.#lastStreamId = id;
    if (this.#streams.size >= this.#options.limits.maxStreams || !this.#options.accepts(headers))
      return this.#control(TYPE.rstStream, id, RST.refusedStream);
    const stream = new ClientStream(id, this);
    this.#streams.set(id, {
      stream,
      sendWindow: new SendWindow(this.#initialWindowBytes),
      receiveWindow: new ReceiveWindow(),
      outputEnded: false,
      reset: false,
    });
    this.#control(TYPE.synReply, id, this.#headerWriter.write(headerBlock([])));
    if (fin) stream.endInput();
    this.#options.onStream(stream, headers);
  }

  /** Nobody needs them, but the next block is compressed in their terms. */
  async #moreHeaders(id: number, fin: boolean, block: Buffer): Promise<void> {
    if (this.#acceptsStreams) await this.#headerReader.read(block);
    if (fin) this.#streams.get(id)?.stream.endInput();
  }

  #receive(id: number, chunk: Buffer, fin: boolean): void {
    const state = this.#streams.get(id);
    const within = this.#receiveWindow.receive(chunk.length) && (state?.receiveWindow.receive(chunk.length) ?? true);
    if (!within && this.#peer === 'obeys') throw protocolError(`stream ${id} went over its window`);
    if (!within) this.#peer = 'ignores';
    // Of a stream that is gone: the client may not know yet.
    if (!state) this.#grant(0, this.#receiveWindow.take(chunk.length, this.#peer === 'obeys'));
    state?.stream.receive(chunk);
    if (fin) state?.stream.endInput();
  }

  #resetByClient(id: number): void {
    const state = this.#streams.get(id);
    if (!state) return;
    state.reset = true;
    state.stream.destroy();
  }

  #settings(initialWindowBytes: number | undefined): void {
    this.#peer = 'obeys';
    if (initialWindowBytes === undefined) return;
    const growth = initialWindowBytes - this.#initialWindowBytes;
    this.#initialWindowBytes = initialWindowBytes;
    for (const { sendWindow } of this.#streams.values())
      if (!sendWindow.grow(growth)) throw protocolError('settings make a window too large');
    this.#pumpAll();
  }

  #windowUpdate(id: number, deltaBytes: number): void {
    this.#peer = 'obeys';
    const window = id === 0 ? this.#sendWindow : this.#streams.get(id)?.sendWindow;
    if (window && !window.grow(deltaBytes)) throw protocolError(`stream ${id} has too large a window`);
    this.#watchdog.progress();
    this.#pumpAll();
  }

  #grant(id: number, bytes: number): void {
    if (bytes > 0) this.#control(TYPE.windowUpdate, id, bytes);
  }

  #pumpAll(): void {
    for (const state of [...this.#outputs.keys()]) this.#pump(state);
  }

  /** Sends what the windows and the transport take of a stream's output. */
  #pump(state: StreamState): void {
    const output = this.#outputs.get(state);
    while (output && !this.#transportFull && !this.#ended) {
      const windowBytes = this.#peer === 'obeys' ? Math.min(state.sendWindow.bytes, this.#sendWindow.bytes) : Infinity;
      const size = Math.min(output.chunk.length, MAX_DATA_BYTES, windowBytes);
      if (size <= 0) return;
      const part = output.chunk.subarray(0, size);
      output.chunk = output.chunk.subarray(size);
      state.sendWindow.use(size);
      this.#sendWindow.use(size);
      const last = output.chunk.length === 0;
      if (last) this.#outputs.delete(state);
      this.#transport.cork();
      this.#transport.write(dataHeader(state.stream.id, size, false));
      this.#transportFull = !this.#transport.write(part, last ? output.done : undefined);
      this.#transport.uncork();
      if (last) return;
    }
  }

  /** Answers to a client that does not read them are bounded like its output. */
  #control(type: number, ...parts: ReadonlyArray<number | Buffer>): void {
    if (this.#ended) return;
    this.#transport.write(controlFrame(type, 0, ...parts));
    if (this.#transport.writableLength > this.outputLimitBytes) this.overflowed();
  }

  #finish(reason: ClassifiedError): void {
    if (this.#ended) return;
    this.#ended = true;
    this.#watchdog[Symbol.dispose]();
    this.#gate[Symbol.dispose]();
    this.#headerReader.close();
    for (const { stream } of [...this.#streams.values()]) stream.destroy();
    this.#resolveClosed(reason);
  }
}
