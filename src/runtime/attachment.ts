import type { Readable } from 'node:stream';
import { ClassifiedError, errnoOf } from '../base/errors.ts';
import type { Seqpacket } from '../os/seqpacket.ts';
import { connectSeqpacket } from '../os/seqpacket.ts';
import type { ContainerIo, ProcessStreams } from './runtime.ts';
import { Sink } from './sink.ts';

/** conmon's packets begin with the number of their stream; what is sent to it is stdin as it is. */
const STDERR = 3;
/** conmon reads at most 32 KiB of a packet. */
const STDIN_PACKET_BYTES = 8 * 1024;
/** What a client may be behind (S8). */
const MAX_BEHIND_BYTES = 8 << 20;
/** How long a connection without a client is kept: conmon notices that one has gone only when it has something to say. */
const LINGER_MS = 60_000;

interface Client {
  readonly stdout: Sink;
  readonly stderr: Sink;
  readonly settle: (error?: ClassifiedError) => void;
}

/**
 * The one connection to a container's conmon, shared by its clients: conmon takes the end of any connection for the end of stdin (stdin_once), stalls when one
 * is not read, and keeps the descriptor of one that has gone until the container's next output.
 */
export class Attachment {
  readonly #socket: Seqpacket;
  readonly #io: Pick<ContainerIo, 'stdin' | 'stdinOnce'>;
  readonly #onClose: () => void;
  readonly #clients = new Set<Client>();
  /** Stdin that conmon had no room for; who sent it waits. */
  readonly #blocked: Array<{ readonly packet: Buffer; readonly sent: () => void }> = [];
  #linger: NodeJS.Timeout | undefined;
  #stdin: 'open' | 'ending' | 'ended' = 'open';

  /** failedPrecondition when no conmon listens at `path`. */
  constructor(path: string, io: Pick<ContainerIo, 'stdin' | 'stdinOnce'>, onClose: () => void) {
    this.#io = io;
    this.#onClose = onClose;
    if (!io.stdin) this.#stdin = 'ended';
    try {
      this.#socket = connectSeqpacket(path, { onPacket: (packet) => this.#give(packet), onEnd: (error) => this.end(lostBy(error)) });
    } catch (error) {
      throw new ClassifiedError('failedPrecondition', 'its monitor does not run', { cause: error });
    }
  }

  /**
   * `settle` is called once: when init has closed its streams and what came before is written to the client, or with what ended this client alone. Returns what
   * detaches it.
   */
  add(streams: ProcessStreams, settle: (error?: ClassifiedError) => void): () => void {
    clearTimeout(this.#linger);
    const client = { stdout: new Sink(streams.stdout), stderr: new Sink(streams.stderr), settle };
    this.#clients.add(client);
    const unfeed = streams.stdin === undefined ? () => undefined : this.#feed(streams.stdin);
    return () => {
      unfeed();
      this.#clients.delete(client);
      if (this.#clients.size === 0 && !this.#io.stdinOnce) this.#linger = setTimeout(() => this.end(), LINGER_MS).unref();
    };
  }

  /** Ends the connection (conmon goes on) and tells the clients that are left when all is written to them. Repeatable. */
  end(lost?: ClassifiedError): void {
    clearTimeout(this.#linger);
    this.#socket.close();
    this.#onClose();
    for (const { sent } of this.#blocked.splice(0)) sent();
    for (const { stdout, stderr, settle } of this.#clients) void Promise.all([stdout.written(), stderr.written()]).then(() => settle(lost));
    this.#clients.clear();
  }

  // It can't be made to wait for one client: that would stop the container, its log and the other clients.
  #give(packet: Buffer): void {
    for (const client of this.#clients) {
      const sink = packet[0] === STDERR ? client.stderr : client.stdout;
      sink.write(packet.subarray(1));
      if (sink.behindBytes <= MAX_BEHIND_BYTES) continue;
      this.#clients.delete(client);
      client.settle(new ClassifiedError('resourceExhausted', `the client is more than ${MAX_BEHIND_BYTES >> 20} MiB behind the output`));
    }
  }

  /** At the pace that init reads it. */
  #feed(stdin: Readable): () => void {
    let isOver = false;
    const onData = (chunk: Buffer): void => {
      let waiting = 0;
      for (let at = 0; at < chunk.length; at += STDIN_PACKET_BYTES) {
        const packet = chunk.subarray(at, at + STDIN_PACKET_BYTES);
        if (this.#sendNow(packet)) continue;
        waiting++;
        stdin.pause();
        this.#blocked.push({ packet, sent: () => --waiting === 0 && !isOver && stdin.resume() });
      }
    };
    const onEnd = (): void => {
      if (isOver) return;
      isOver = true;
      stdin.off('data', onData).off('end', onEnd);
      stdin.pause();
      if (this.#io.stdinOnce) this.#endStdin();
    };
    stdin.on('error', () => undefined);
    stdin.on('data', onData).once('end', onEnd);
    return onEnd;
  }

  /** With stdin_once the end of the first client's stdin is the end of init's (CRI, ContainerConfig). */
  #endStdin(): void {
    if (this.#stdin !== 'open') return;
    this.#stdin = this.#blocked.length > 0 ? 'ending' : 'ended';
    if (this.#stdin === 'ended') this.#socket.endWrites();
  }

  /** false: conmon has no room for it. Nobody takes what comes after the end. */
  #sendNow(packet: Buffer): boolean {
    if (this.#stdin !== 'open') return true;
    if (this.#blocked.length > 0) return false;
    const isSent = this.#trySend(packet);
    if (!isSent) this.#socket.whenWritable(() => this.#retry());
    return isSent;
  }

  #trySend(packet: Buffer): boolean {
    try {
      this.#socket.send(packet);
    } catch (error) {
      // Another error is that conmon is gone, of which its reader tells.
      return errnoOf(error) !== 'EAGAIN';
    }
    return true;
  }

  #retry(): void {
    for (let next = this.#blocked[0]; next !== undefined; next = this.#blocked[0]) {
      if (!this.#trySend(next.packet)) return this.#socket.whenWritable(() => this.#retry());
      this.#blocked.shift();
      next.sent();
    }
    if (this.#stdin !== 'ending') return;
    this.#stdin = 'ended';
    this.#socket.endWrites();
  }
}

const lostBy = (error: unknown): ClassifiedError | undefined =>
  error === undefined ? undefined : new ClassifiedError('unavailable', 'the monitor is gone', { cause: error });
