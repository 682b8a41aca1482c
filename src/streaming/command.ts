import { ClassifiedError } from '../base/errors.ts';
import type { Outcome } from './status.ts';
import type { ClientStreams, TerminalSize } from './stream-runtime.ts';

/** What the CRI request asked for; a terminal never has stderr. */
export interface WantedStreams {
  readonly stdin: boolean;
  readonly stdout: boolean;
  readonly stderr: boolean;
  readonly tty: boolean;
}

/** A client whose streams are all there, whatever protocol it speaks. */
export interface Command {
  readonly streams: ClientStreams;
  /**
   * Tells how the command ended, after all of its output, and resolves when the client has closed. A client that does not is left after `lingerMs`: closing
   * first would make the kernel throw away what the client has not read yet.
   */
  finish(outcome: Outcome): Promise<void>;
}

const MAX_EVENT_CHARS = 1024;
/** Of what comes at a time only this much, and this many events, from its end: a size counts until the next one, and what is none costs an exception. */
const MAX_TAIL_BYTES = 4096;
const MAX_EVENTS = 64;

/** The resize stream: JSON objects `{"Width":80,"Height":24}`, one after the other. Anything else is passed over, and so is a size of nothing. */
export class ResizeEvents {
  #text = '';
  #last: TerminalSize | undefined;
  readonly #listeners: Array<(size: TerminalSize) => void> = [];

  readonly onResize = (listener: (size: TerminalSize) => void): void => {
    this.#listeners.push(listener);
    if (this.#last) listener(this.#last);
  };

  push(bytes: Buffer): void {
    this.#text += bytes.subarray(-MAX_TAIL_BYTES).toString('latin1');
    // The objects have no objects in them.
    const events = this.#text.split('}');
    this.#text = (events.pop() ?? '').slice(-MAX_EVENT_CHARS);
    for (const event of events.slice(-MAX_EVENTS)) this.#take(parseSize(`${event}}`));
  }

  #take(size: TerminalSize | undefined): void {
    if (!size) return;
    this.#last = size;
    for (const listener of this.#listeners) listener(size);
  }
}

const isCells = (value: unknown): value is number => Number.isInteger(value) && (value as number) > 0 && (value as number) <= 0xffff;

function parseSize(json: string): TerminalSize | undefined {
  try {
    const { Width: width, Height: height } = JSON.parse(json) as Record<string, unknown>;
    return isCells(width) && isCells(height) ? { width, height } : undefined;
  } catch {
    return undefined;
  }
}

/** Waits at most `timeoutMs`: false when it took longer. */
export async function settlesWithin(promise: Promise<unknown>, timeoutMs: number): Promise<boolean> {
  const { promise: late, resolve } = Promise.withResolvers<boolean>();
  const timer = setTimeout(() => resolve(false), timeoutMs).unref();
  try {
    return await Promise.race([promise.then(() => true), late]);
  } finally {
    clearTimeout(timer);
  }
}

export const lingeredTooLong = (lingerMs: number): ClassifiedError =>
  new ClassifiedError('deadlineExceeded', `the client did not close within ${lingerMs} ms after the end`);
