import { availableParallelism } from 'node:os';
import { MessageChannel } from 'node:worker_threads';
import type { MessagePort } from 'node:worker_threads';
import type { Thread } from '../os/threads.ts';
import { Threads } from '../os/threads.ts';
import type { BlobMessage, BlobNews, BlobReply } from './blob-worker.ts';

/** One hashes more than a gigabyte per second where processors can do it, and each costs memory. */
const MAX_THREADS = Math.min(2, availableParallelism());

/** What the thread has not written yet, of one blob. Far more than one of its steps. */
const MAX_WAITING_BYTES = 4 << 20;

interface Content {
  readonly sha256: string;
  readonly sizeBytes: number;
}

interface SharedThread {
  readonly thread: Thread;
  /** Who writes by it. */
  readonly blobs: Map<number, (news: BlobNews) => void>;
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
      shared.blobs.get(reply.id)?.(reply);
    });
    void shared.thread.ended.then(() => (this.#running = this.#running.filter((each) => each !== shared)));
    this.#running.push(shared);
    return shared;
  }
}

/** Writes one blob's file and hashes it, on a thread. Buffers are handed over, not copied. */
export class BlobThread {
  readonly #thread: Thread;
  readonly #id: number;
  readonly #close: () => void;
  #waiting = 0;
  #failure: Error | undefined;
  /** Those who wait for room. */
  #wake: Array<() => void> = [];
  #content: Promise<Content> | undefined;
  #ended: ((content: Content) => void) | undefined;

  constructor(on: { shared: SharedThread; id: number; close: () => void }, file: { fd: number; sizeBytes: number }) {
    this.#thread = on.shared.thread;
    this.#id = on.id;
    this.#close = on.close;
    on.shared.blobs.set(on.id, (news) => this.#heard(news));
    void this.#thread.ended.then((error) => this.#fail(error ?? new Error('the thread that writes a blob ended')));
    this.#post({ begin: file });
  }

  /** Rejects with the error of an earlier write, as fs throws it. */
  async write(chunk: Uint8Array, at: number): Promise<void> {
    this.#throwIfFailed();
    // A view of something larger is somebody else's too.
    const own = chunk.buffer.byteLength === chunk.byteLength && chunk.buffer instanceof ArrayBuffer ? chunk : new Uint8Array(chunk);
    this.#waiting += own.byteLength;
    this.#post({ chunk: own, at }, [own.buffer as ArrayBuffer]);
    while (this.#waiting > MAX_WAITING_BYTES && this.#failure === undefined) await new Promise<void>((resolve) => this.#wake.push(resolve));
    this.#throwIfFailed();
  }

  /** The port tells how many bytes are there; it closes at the end. */
  follow(): MessagePort {
    const { port1, port2 } = new MessageChannel();
    this.#post({ follower: port2 }, [port2]);
    return port1;
  }

  /** What it has written; rejects when it failed to. Again: the same. */
  end(): Promise<Content> {
    return (this.#content ??= this.#end());
  }

  async #end(): Promise<Content> {
    const { promise, resolve } = Promise.withResolvers<Content>();
    this.#ended = resolve;
    this.#post({ end: true });
    const content = await Promise.race([promise, this.#thread.ended]);
    this.#close();
    this.#throwIfFailed();
    return content as Content;
  }

  #heard(reply: BlobNews): void {
    if ('error' in reply) this.#fail(Object.assign(new Error(reply.error), { code: reply.code }));
    else if ('written' in reply) {
      this.#waiting -= reply.written;
      this.#wakeAll();
    } else this.#ended?.(reply);
  }

  #fail(error: Error): void {
    this.#failure ??= error;
    this.#wakeAll();
  }

  #wakeAll(): void {
    const wake = this.#wake;
    this.#wake = [];
    for (const each of wake) each();
  }

  #throwIfFailed(): void {
    if (this.#failure !== undefined) throw this.#failure;
  }

  #post(message: Omit<BlobMessage, 'id'>, transfer: ReadonlyArray<ArrayBuffer | MessagePort> = []): void {
    this.#thread.post({ id: this.#id, ...message }, transfer);
  }
}
