import type { WebSocket } from 'ws';
import { ClassifiedError } from '../../base/errors.ts';
import { ClientStream } from '../client-stream.ts';
import type { StreamOwner } from '../client-stream.ts';
import { InputGate } from '../input-gate.ts';
import type { StreamingLimits } from '../limits.ts';
import { Watchdog } from '../watchdog.ts';

/** Of one message of ours. */
const MAX_DATA_BYTES = 32_768;
const FAREWELL_MS = 1000;
const CLOSE_SIGNAL = 255;
const BASE64 = /^[A-Za-z0-9+/\r\n]*={0,2}$/;

type Done = (error?: Error | null) => void;

interface ChannelOptions {
  readonly limits: StreamingLimits;
  /** Text messages: a digit for the channel, then base64. Else binary ones: a byte, then the data. */
  readonly base64: boolean;
  /** v5: the message [255, channel] is the client's half-close of the channel. */
  readonly closeSignal: boolean;
}

/**
 * Channels over one WebSocket, the form that Kubernetes' `*channel.k8s.io` subprotocols share. Messages for channels that nobody opened are passed over. Ends,
 * with all of its channels, when the client closes, breaks the protocol, idles or does not read, or by `end`; `closed` then says why.
 */
export class ChannelConnection implements StreamOwner {
  readonly closed: Promise<ClassifiedError>;
  readonly outputLimitBytes: number;
  readonly #ws: WebSocket;
  readonly #options: ChannelOptions;
  readonly #channels = new Map<number, ClientStream>();
  readonly #watchdog: Watchdog;
  readonly #gate: InputGate;
  readonly #resolveClosed: (reason: ClassifiedError) => void;
  #ended = false;

  constructor(ws: WebSocket, options: ChannelOptions) {
    const { promise, resolve } = Promise.withResolvers<ClassifiedError>();
    this.closed = promise;
    this.#resolveClosed = resolve;
    this.#ws = ws;
    this.#options = options;
    this.outputLimitBytes = options.limits.backlogBytes;
    this.#watchdog = new Watchdog(options.limits, (error) => this.end(error));
    this.#gate = new InputGate({
      maxBytes: options.limits.backlogBytes,
      keepAliveMs: options.limits.keepAliveMs,
      hold: () => ws.pause(),
      release: () => ws.resume(),
      // client-go takes any pong as a sign of life, and its own pings are not read now.
      probe: () => ws.pong(),
    });
    ws.on('message', (data) => this.#receive(data as Buffer));
    ws.on('ping', () => {
      this.#watchdog.active();
      if (ws.bufferedAmount > this.outputLimitBytes) this.overflowed();
    });
    ws.on('pong', () => this.#watchdog.active());
    ws.on('close', () => this.#finish(new ClassifiedError('cancelled', 'the client closed the connection')));
  }

  /** Opens a channel, both ways. Its streams' ends say nothing to the client: the protocol has no word for that. */
  open(channel: number): ClientStream {
    const stream = new ClientStream(channel, this);
    this.#channels.set(channel, stream);
    return stream;
  }

  /** Says that nothing more comes, and waits for the client to close. False when it did not do so in time and was left. */
  async close(): Promise<void> {
    this.#ws.close(1000);
    await this.closed;
  }

  /** Tells the client, as far as it still listens, and ends everything. */
  end(reason: ClassifiedError): void {
    if (this.#ended) return;
    this.#ws.close(reason.kind === 'invalidArgument' ? 1002 : 1011, Buffer.from(reason.message).subarray(0, 120));
    const timer = setTimeout(() => this.#ws.terminate(), FAREWELL_MS).unref();
    this.#ws.once('close', () => clearTimeout(timer));
    this.#finish(reason);
  }

  write(stream: ClientStream, chunk: Buffer, done: Done): void {
    if (this.#ended) return done(new ClassifiedError('cancelled', 'the connection is closed'));
    this.#watchdog.writeBegins();
    const { base64 } = this.#options;
    let rest = chunk;
    const next: Done = (error) => {
      if (error || rest.length === 0) {
        this.#watchdog.writeEnds();
        return done(error);
      }
      this.#watchdog.progress();
      const part = rest.subarray(0, MAX_DATA_BYTES);
      rest = rest.subarray(part.length);
      if (base64) this.#ws.send(`${stream.id}${part.toString('base64')}`, { binary: false }, next);
      else this.#ws.send(Buffer.concat([Buffer.of(stream.id), part]), { binary: true }, next);
    };
    next();
  }

  /** An empty message: Kubernetes' servers begin with one, and clients may wait for it. */
  greet(stream: ClientStream): void {
    if (this.#options.base64) this.#ws.send(String(stream.id), { binary: false });
    else this.#ws.send(Buffer.of(stream.id), { binary: true });
  }

  endOutput(_stream: ClientStream, done: Done): void {
    done();
  }

  queued(bytes: number): void {
    this.#gate.add(bytes);
  }

  taken(_stream: ClientStream, _size: number, bytes: number): void {
    this.#gate.take(bytes);
  }

  /** The channel stays known, and what comes for it is dropped. */
  closedStream(): void {}

  overflowed(): void {
    this.end(new ClassifiedError('resourceExhausted', `the client is behind by more than ${this.outputLimitBytes} bytes`));
  }

  #receive(data: Buffer): void {
    this.#watchdog.active();
    const first = data[0];
    if (this.#ended || first === undefined) return;
    const { base64, closeSignal } = this.#options;
    if (closeSignal && first === CLOSE_SIGNAL) {
      const [, channel = -1] = data;
      if (data.length !== 2) return this.#violation(`close signal of ${data.length} bytes`);
      this.#channels.get(channel)?.endInput();
      return;
    }
    const payload = base64 ? decode(data.subarray(1)) : data.subarray(1);
    if (!payload) return this.#violation('message that is not base64');
    this.#channels.get(base64 ? first - 0x30 : first)?.receive(payload);
  }

  #violation(what: string): void {
    this.end(new ClassifiedError('invalidArgument', `websocket: ${what}`));
  }

  #finish(reason: ClassifiedError): void {
    if (this.#ended) return;
    this.#ended = true;
    this.#watchdog[Symbol.dispose]();
    this.#gate[Symbol.dispose]();
    for (const stream of this.#channels.values()) stream.destroy();
    this.#resolveClosed(reason);
  }
}

function decode(data: Buffer): Buffer | undefined {
  const text = data.toString('latin1');
  return BASE64.test(text) ? Buffer.from(text, 'base64') : undefined;
}
