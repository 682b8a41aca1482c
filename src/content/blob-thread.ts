import { availableParallelism } from 'node:os';
import { MessageChannel } from 'node:worker_threads';
import type { MessagePort } from 'node:worker_threads';
import { ClassifiedError } from '../base/errors.ts';
import type { AskBlob, BlobAnswer } from '../os/http-client.ts';
import { isContent } from '../os/http-client.ts';
import type { Receiving } from '../os/http-receive.ts';
import type { Thread } from '../os/threads.ts';
import { Threads } from '../os/threads.ts';
import type { BlobMessage, BlobReply, PlainError, RequestMessage, RequestNews } from './blob-worker.ts';

/** One fetches and hashes some hundred megabytes per second, and each costs memory. */
const MAX_THREADS = Math.min(2, availableParallelism());

interface Content {
  readonly sha256: string;
  readonly sizeBytes: number;
}

/** One who writes by a thread. */
interface Blob {
  heard(reply: BlobReply): void;
  /** The thread is gone. */
  gone(error: Error): void;
}

interface SharedThread {
  readonly thread: Thread;
  readonly blobs: Map<number, Blob>;
}

/** A few threads that write many blobs. */
export class BlobThreads {
  readonly #threads = new Threads(new URL('./blob-worker', import.meta.url), MAX_THREADS);
  #running: SharedThread[] = [];
  #nextId = 1;

  /** `fd` stays the caller's to close, after `end`. */
  open(file: { fd: number; sizeBytes: number }): BlobThread {
    const shared = this.#pick();
    const id = this.#nextId++;
    const close = (): void => {
      shared.blobs.delete(id);
      if (shared.blobs.size > 0 || !this.#running.includes(shared)) return;
      this.#running = this.#running.filter((each) => each !== shared);
      shared.thread.release();
    };
    return new BlobThread({ shared, id, close }, file);
  }

  #pick(): SharedThread {
    const least = [...this.#running].sort((a, b) => a.blobs.size - b.blobs.size)[0];
    if (least !== undefined && this.#running.length >= MAX_THREADS) return least;
    const shared: SharedThread = { thread: this.#threads.take(), blobs: new Map() };
    shared.thread.listen((message) => {
      const reply = message as BlobReply;
      shared.blobs.get(reply.id)?.heard(reply);
    });
    void shared.thread.ended.then((error = new Error('the thread that writes a blob ended')) => {
      this.#running = this.#running.filter((each) => each !== shared);
      for (const blob of [...shared.blobs.values()]) blob.gone(error);
    });
    this.#running.push(shared);
    return shared;
  }
}

/**
 * Fetches the pieces of one blob, writes them to its file and hashes them, on a thread: no byte of a large blob comes to the event loop, neither as HTTP nor as TLS has it,
 * and what they leave for the garbage collector is not in the daemon's heap.
 */
export class BlobThread {
  readonly #thread: Thread;
  readonly #id: number;
  readonly #close: () => void;
  readonly #requests = new Map<number, ThreadRequest>();
  readonly #ended = Promise.withResolvers<Content>();
  #nextRequest = 1;
  #isEnding = false;
  /** No more can be asked. */
  #failure: PlainError | undefined;

  constructor(on: { shared: SharedThread; id: number; close: () => void }, file: { fd: number; sizeBytes: number }) {
    this.#thread = on.shared.thread;
    this.#id = on.id;
    this.#close = on.close;
    this.#ended.promise.catch(() => undefined);
    on.shared.blobs.set(on.id, {
      heard: (reply) => {
        if ('request' in reply) this.#requests.get(reply.request)?.heard(reply);
        else this.#ended.resolve(reply);
      },
      gone: (error) => {
        this.#ended.reject(error);
        this.#failAll({ message: error.message });
      },
    });
    this.#post({ begin: file });
  }

  /** What receives into the file may reject with the error of a write, as fs throws it. */
  readonly ask: AskBlob = (host, { signal, ...what }) => {
    if (this.#failure !== undefined) return Promise.reject(errorOf(this.#failure));
    const number = this.#nextRequest++;
    const post = (message: RequestMessage): void => this.#post({ request: number, ...message });
    const drop = (): void => post({ drop: true });
    const request = new ThreadRequest(post, () => {
      signal.removeEventListener('abort', drop);
      this.#requests.delete(number);
    });
    this.#requests.set(number, request);
    signal.addEventListener('abort', drop, { once: true });
    const { ca, client, skipVerify, connectTimeoutMs } = host;
    post({ ask: { host: { ca, client, skipVerify, connectTimeoutMs }, what } });
    if (signal.aborted) drop();
    return request.answered;
  };

  /** The port tells how many bytes are there; it closes at the end. */
  follow(): MessagePort {
    const { port1, port2 } = new MessageChannel();
    this.#post({ follower: port2 }, [port2]);
    return port1;
  }

  /** What it has written, and it writes no more; rejects when the thread failed. Again: the same. */
  async end(): Promise<Content> {
    if (!this.#isEnding) {
      this.#isEnding = true;
      this.#post({ end: true });
    }
    try {
      return await this.#ended.promise;
    } finally {
      this.#close();
      this.#failAll({ kind: 'cancelled', message: 'the blob was given up' });
    }
  }

  #failAll(error: PlainError): void {
    this.#failure = error;
    for (const request of [...this.#requests.values()]) request.heard({ failed: error });
  }

  #post(message: Unnamed<BlobMessage>, transfer: readonly MessagePort[] = []): void {
    this.#thread.post({ id: this.#id, ...message }, transfer);
  }
}

type Unnamed<T> = T extends unknown ? Omit<T, 'id'> : never;

/** The starter's side of a request. */
class ThreadRequest {
  readonly #post: (message: RequestMessage) => void;
  readonly #over: () => void;
  readonly #answered = Promise.withResolvers<BlobAnswer>();
  readonly #received = Promise.withResolvers<boolean>();
  #receiving: Receiving | undefined;

  constructor(post: (message: RequestMessage) => void, over: () => void) {
    this.#post = post;
    this.#over = over;
    this.#received.promise.catch(() => undefined);
  }

  get answered(): Promise<BlobAnswer> {
    return this.#answered.promise;
  }

  heard(news: RequestNews): void {
    if ('answered' in news) return this.#answer(news.answered);
    if ('took' in news) return this.#receiving?.progress(news.took);
    this.#over();
    if ('received' in news) for (const [n, at] of news.received.entries()) this.#receiving!.parts[n]!.at = at;
    if ('failed' in news) {
      const error = errorOf(news.failed);
      this.#answered.reject(error);
      this.#received.reject(error);
    } else this.#received.resolve(news.isComplete);
  }

  #answer({ status, headers, body }: Extract<RequestNews, { answered: unknown }>['answered']): void {
    const isPiece = isContent(status);
    if (!isPiece) this.#over();
    this.#answered.resolve({
      status,
      headers,
      body: async (maxBytes) => {
        if (body.length > maxBytes) throw new ClassifiedError('resourceExhausted', `the answer has more than ${maxBytes} bytes`);
        return Buffer.from(body);
      },
      drop: () => {
        if (isPiece) this.#post({ drop: true });
        this.#over();
      },
      receive: (what) => {
        this.#receiving = what;
        const { at, parts, stallMs } = what;
        this.#post({ receive: { at, parts, stallMs } });
        return this.#received.promise;
      },
    });
  }
}

const errorOf = ({ kind, message, detail, code }: PlainError): Error =>
  kind === undefined
    ? Object.assign(new Error(message), code === undefined ? {} : { code })
    : new ClassifiedError(kind, message, detail === undefined ? {} : { detail });
