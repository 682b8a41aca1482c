import { createHash } from 'node:crypto';
import { readSync, writeSync } from 'node:fs';
import type { IncomingHttpHeaders } from 'node:http';
import type { MessagePort } from 'node:worker_threads';
import type { ErrorKind } from '../base/errors.ts';
import { ClassifiedError, errnoOf, messageOf } from '../base/errors.ts';
import type { Ask, BlobAnswer, Connection } from '../os/http-client.ts';
import { askInto, isContent } from '../os/http-client.ts';
import type { Receiving, Write } from '../os/http-receive.ts';
import { serveStarter } from '../os/threads.ts';
import { WriteOut } from '../os/write-out.ts';

/** To the thread, which has several blobs at a time, by id: `begin`, requests, `end`. The descriptor is the starter's to close, but not before the reply to `end`. */
export type BlobMessage = { readonly id: number } & (
  | { readonly begin: { readonly fd: number; readonly sizeBytes: number } }
  | ({ readonly request: number } & RequestMessage)
  | { readonly follower: MessagePort }
  | { readonly end: true }
);

/** Of one request for a piece of the blob: `ask`, then `receive`, or `drop` at any time. */
export type RequestMessage = { readonly ask: PlainAsk } | { readonly receive: PlainReceiving } | { readonly drop: true };

interface PlainAsk {
  readonly host: Connection;
  readonly what: Omit<Ask, 'signal'>;
}

type PlainReceiving = Omit<Receiving, 'progress'>;

export type BlobReply = { readonly id: number } & (
  | ({ readonly request: number } & RequestNews)
  /** Of the bytes from the beginning as far as there is no gap. */
  | { readonly sha256: string; readonly sizeBytes: number }
);

export type RequestNews =
  /** `body`: of refusals, unless it is long. */
  | { readonly answered: { readonly status: number; readonly headers: IncomingHttpHeaders; readonly body: Uint8Array } }
  /** So many bytes more. */
  | { readonly took: number }
  /** Where its parts begin now. */
  | ({ readonly received: readonly number[] } & ({ readonly isComplete: boolean } | { readonly failed: PlainError }))
  | { readonly failed: PlainError };

/** An error that crosses threads. */
export interface PlainError {
  readonly message: string;
  /** Of a ClassifiedError. */
  readonly kind?: ErrorKind;
  readonly detail?: Readonly<Record<string, unknown>> | undefined;
  readonly code?: string | undefined;
}

/** The follower is told each time so many bytes are written. */
const STEP_BYTES = 512 << 10;
/** The starter is told no more often of what comes: it only shows it. */
const TELL_MS = 100;
const READ_BYTES = 1 << 20;
/** Of an answer that is no piece of a blob. */
const MAX_BODY_BYTES = 64 << 10;

/** Writes pieces where they belong, and hashes them in order: what came too early is read back from the page cache. */
class BlobFile {
  /** Under way, by their numbers. */
  readonly requests = new Map<number, BlobRequest>();
  readonly #fd: number;
  readonly #sizeBytes: number;
  readonly #out: WriteOut;
  readonly #hash = createHash('sha256');
  /** What is beyond a gap: lengths by where they begin. */
  readonly #ahead = new Map<number, number>();
  #buffer: Buffer | undefined;
  #hashed = 0;
  #told = 0;
  #follower: MessagePort | undefined;

  constructor({ fd, sizeBytes }: { fd: number; sizeBytes: number }) {
    this.#fd = fd;
    this.#out = new WriteOut(fd);
    this.#sizeBytes = sizeBytes;
  }

  readonly write: Write = (chunk, at) => {
    for (let done = 0; done < chunk.length;) done += writeSync(this.#fd, chunk, done, chunk.length - done, at + done);
    if (at === this.#hashed) this.#take(chunk);
    else this.#ahead.set(at, chunk.length);
    for (let length = this.#next(); length !== undefined; length = this.#next()) this.#readBack(length);
    this.#tell();
  };

  follow(port: MessagePort): void {
    this.#follower = port;
    this.#told = 0;
    this.#tell();
  }

  /** Nothing is written any more. */
  end(): { sha256: string; sizeBytes: number } {
    for (const request of this.requests.values()) request.drop();
    this.#follower?.close();
    return { sha256: this.#hash.digest('hex'), sizeBytes: this.#hashed };
  }

  #next(): number | undefined {
    const length = this.#ahead.get(this.#hashed);
    this.#ahead.delete(this.#hashed);
    return length;
  }

  #readBack(length: number): void {
    const buffer = (this.#buffer ??= Buffer.allocUnsafe(READ_BYTES));
    for (const end = this.#hashed + length; this.#hashed < end;) {
      const read = readSync(this.#fd, buffer, 0, Math.min(READ_BYTES, end - this.#hashed), this.#hashed);
      if (read === 0) throw new Error('what was written to a blob is not there');
      this.#take(buffer.subarray(0, read));
    }
  }

  #take(bytes: Uint8Array): void {
    this.#hash.update(bytes);
    this.#hashed += bytes.length;
  }

  #tell(): void {
    if (this.#hashed - this.#told < STEP_BYTES && (this.#hashed < this.#sizeBytes || this.#told === this.#hashed)) return;
    this.#told = this.#hashed;
    this.#out.reached(this.#hashed);
    this.#follower?.postMessage(this.#hashed);
  }
}

interface Requester {
  readonly tell: (news: RequestNews) => void;
  readonly write: Write;
  /** Nothing more comes of it. */
  readonly ended: () => void;
}

/** One request for a piece of a blob. Nothing of it is written after `drop`. */
class BlobRequest {
  readonly #by: Requester;
  readonly #dropped = new AbortController();
  #answer: BlobAnswer | undefined;

  constructor(by: Requester) {
    this.#by = by;
  }

  drop(): void {
    this.#dropped.abort();
    this.#by.ended();
  }

  async ask({ host, what }: PlainAsk): Promise<void> {
    const { signal } = this.#dropped;
    const write: Write = (chunk, at) => {
      // The descriptor may be another file's by now.
      if (!signal.aborted) this.#by.write(chunk, at);
    };
    try {
      const answer = await askInto(write)(host, { ...what, signal });
      const { status, headers } = answer;
      if (isContent(status)) this.#answer = answer;
      const body = this.#answer ? new Uint8Array() : await answer.body(MAX_BODY_BYTES).catch(() => new Uint8Array());
      this.#by.tell({ answered: { status, headers, body } });
    } catch (error) {
      this.#by.tell({ failed: plain(error) });
    }
    if (this.#answer === undefined) this.#by.ended();
  }

  async receive({ at, parts, stallMs }: PlainReceiving): Promise<void> {
    let taken = 0;
    let timer: NodeJS.Timeout | undefined;
    const tell = (): void => {
      clearTimeout(timer);
      timer = undefined;
      if (taken > 0) this.#by.tell({ took: taken });
      taken = 0;
    };
    const progress = (bytes: number): void => {
      taken += bytes;
      timer ??= setTimeout(tell, TELL_MS);
    };
    const over = await this.#answer?.receive({ at, parts, stallMs, progress }).then(
      (isComplete) => ({ isComplete }),
      (error: unknown) => ({ failed: plain(error) }),
    );
    tell();
    this.#by.tell({ received: parts.map((part) => part.at), ...(over ?? { isComplete: false }) });
    this.#by.ended();
  }
}

const plain = (error: unknown): PlainError => ({
  message: messageOf(error),
  ...(error instanceof ClassifiedError ? { kind: error.kind, detail: error.detail } : {}),
  code: errnoOf(error),
});

const files = new Map<number, BlobFile>();

function handle(message: BlobMessage, reply: (news: BlobReply) => void): void {
  const { id } = message;
  if ('begin' in message) return void files.set(id, new BlobFile(message.begin));
  const file = files.get(id);
  if ('follower' in message) return file === undefined ? message.follower.close() : file.follow(message.follower);
  if (file === undefined) return;
  if ('end' in message) {
    files.delete(id);
    return reply({ id, ...file.end() });
  }
  const { request: number } = message;
  const { requests, write } = file;
  const request =
    requests.get(number) ??
    new BlobRequest({ write, tell: (news) => reply({ id, request: number, ...news }), ended: () => requests.delete(number) });
  requests.set(number, request);
  if ('ask' in message) void request.ask(message.ask);
  else if ('receive' in message) void request.receive(message.receive);
  else request.drop();
}

serveStarter(handle);
