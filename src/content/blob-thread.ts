import type { Threads } from '../os/threads.ts';
import { MessageChannel } from 'node:worker_threads';
import type { MessagePort } from 'node:worker_threads';
import type { BlobMessage, BlobReply } from './blob-worker.ts';

/** What the thread has not written yet, of one blob. Far more than one of its steps. */
const MAX_WAITING_BYTES = 4 << 20;

interface Content {
  readonly sha256: string;
  readonly sizeBytes: number;
}

/** Writes one blob's file and hashes it, on a thread. Buffers are handed over, not copied. */
export class BlobThread {
  readonly #thread;
  #waiting = 0;
  #failure: Error | undefined;
  /** Those who wait for room. */
  #wake: Array<() => void> = [];
  #content: Promise<Content> | undefined;
  #ended: ((content: Content) => void) | undefined;

  /** `fd` stays the caller's to close, after `end`. */
  constructor(threads: Threads, file: { fd: number; sizeBytes: number }) {
    this.#thread = threads.take();
    this.#thread.listen((message) => this.#heard(message as BlobReply));
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
    if (content !== undefined && 'sha256' in content) this.#thread.release();
    this.#throwIfFailed();
    return content as Content;
  }

  #heard(reply: BlobReply): void {
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

  #post(message: BlobMessage, transfer: ReadonlyArray<ArrayBuffer | MessagePort> = []): void {
    this.#thread.post(message, transfer);
  }
}
