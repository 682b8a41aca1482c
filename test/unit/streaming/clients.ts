import { once } from 'node:events';
import { connect } from 'node:net';
import type { Socket } from 'node:net';
import { WebSocket } from 'ws';
import type { DialOptions, SpdyClientStream } from '../../lib/spdy-client.ts';
import { SpdyClient } from '../../lib/spdy-client.ts';

export const V4 = 'v4.channel.k8s.io';

interface Streams {
  readonly stdin?: boolean;
  readonly stdout?: boolean;
  readonly stderr?: boolean;
  readonly tty?: boolean;
}

/** What a command's client has when all is over. */
export interface Result {
  readonly stdout: string;
  readonly stderr: string;
  readonly error: string;
}

/** Runs exec or attach over SPDY as client-go does: error, stdin, stdout, stderr and resize streams, in this order. */
export class SpdyCommand {
  readonly client: SpdyClient;
  readonly streams: Readonly<Record<string, SpdyClientStream>>;

  static async dial(url: string, wanted: Streams, options: Partial<DialOptions> = {}): Promise<SpdyCommand> {
    const { protocols = [V4] } = options;
    const client = await SpdyClient.dial(url, { ...options, protocols });
    const types = ['error', ...(['stdin', 'stdout', 'stderr'] as const).filter((type) => wanted[type])];
    if (wanted.tty && !['channel.k8s.io', 'v2.channel.k8s.io'].includes(client.protocol)) types.push('resize');
    const streams: Record<string, SpdyClientStream> = {};
    for (const streamtype of types) streams[streamtype] = await client.open({ streamtype });
    return new SpdyCommand(client, streams);
  }

  constructor(client: SpdyClient, streams: Record<string, SpdyClientStream>) {
    this.client = client;
    this.streams = streams;
  }

  /** Reads all to the end and closes. */
  async result(): Promise<Result> {
    const text = async (name: string): Promise<string> => String((await this.streams[name]?.all()) ?? '');
    const [stdout, stderr, error] = await Promise.all([text('stdout'), text('stderr'), text('error')]);
    await this.client.close();
    return { stdout, stderr, error };
  }
}

/** A client of the channel protocols, over `ws`. */
export class WsCommand {
  readonly ws: WebSocket;
  readonly received = new Map<number, Buffer[]>();
  readonly base64: boolean;
  readonly closed: Promise<{ code: number; reason: string }>;

  static async dial(url: string, protocol: string, ca?: string): Promise<WsCommand> {
    const ws = new WebSocket(url.replace(/^http/, 'ws'), protocol === '' ? [] : [protocol], { ...(ca && { ca }) });
    const command = new WsCommand(ws, protocol.includes('base64'));
    await Promise.race([once(ws, 'open'), once(ws, 'error').then(([error]) => Promise.reject(error as Error))]);
    return command;
  }

  constructor(ws: WebSocket, base64: boolean) {
    this.ws = ws;
    this.base64 = base64;
    ws.on('error', () => {});
    this.closed = once(ws, 'close').then(([code, reason]) => ({ code: Number(code), reason: String(reason) }));
    ws.on('message', (data: Buffer) => {
      const channel = this.base64 ? Number(String.fromCharCode(data[0] ?? 0)) : (data[0] ?? 0);
      const bytes = this.base64 ? Buffer.from(data.toString('latin1', 1), 'base64') : data.subarray(1);
      this.received.set(channel, [...(this.received.get(channel) ?? []), bytes]);
    });
  }

  send(channel: number, bytes: string | Buffer): void {
    const data = Buffer.from(bytes);
    if (this.base64) this.ws.send(`${channel}${data.toString('base64')}`);
    else this.ws.send(Buffer.concat([Buffer.of(channel), data]));
  }

  text(channel: number): string {
    return String(Buffer.concat(this.received.get(channel) ?? []));
  }

  async result(): Promise<Result & { code: number }> {
    const { code } = await this.closed;
    return { stdout: this.text(1), stderr: this.text(2), error: this.text(3), code };
  }
}

export async function until(what: string, condition: () => boolean, timeoutMs = 5000): Promise<void> {
  const endsAt = Date.now() + timeoutMs;
  while (!condition()) {
    if (Date.now() > endsAt) throw new Error(`not within ${timeoutMs} ms: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

/** A plain connection to the server, for clients that misbehave. */
export async function rawSocket(url: string): Promise<Socket> {
  const socket = connect(Number(new URL(url).port), new URL(url).hostname);
  socket.on('error', () => {});
  await once(socket, 'connect');
  return socket;
}
