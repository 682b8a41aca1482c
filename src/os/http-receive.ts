import type { IncomingMessage } from 'node:http';
import { ClassifiedError, messageOf } from '../base/errors.ts';
import { Patience } from './patience.ts';

/** What of a body is wanted, and how long to wait for it. */
export interface Receiving {
  /** Which byte of the whole the body begins with. */
  readonly at: number;
  /** [at, to) of the whole, in order; `at` moves on as bytes are written. Empty: nothing of it, it only has to end. */
  readonly parts: ReadonlyArray<{ at: number; readonly to: number }>;
  /** No byte for this long, and the connection is given up (R35). */
  readonly stallMs: number;
  /** Told of so many bytes more. */
  readonly progress: (bytes: number) => void;
}

/** For a body to end by itself, so that its connection can be used again. */
const LINGER_MS = 200;

/** Nobody wants the body, or the rest of it: the connection is given up unless it ends soon. */
export function passOver(response: IncomingMessage): void {
  const linger = setTimeout(() => response.destroy(), LINGER_MS).unref();
  response.on('close', () => clearTimeout(linger));
  response.on('error', () => undefined);
  response.resume();
}

/**
 * Hands the wanted parts of a body to `write`, until it ends or all of them are there; whether it came to its end. Rejects with unavailable when the connection
 * breaks off or stalls, and with what `write` throws. A chunk is the writer's only until it returns.
 */
export function receive(response: IncomingMessage, { at: begin, parts, stallMs, progress }: Receiving, write: Write): Promise<boolean> {
  // Its connection broke before anybody listened: nothing more is told of it.
  if (response.destroyed) return Promise.reject(new ClassifiedError('unavailable', 'the connection broke'));
  const { promise, resolve, reject } = Promise.withResolvers<boolean>();
  const left = parts.filter((part) => part.at < part.to);
  let at = begin;
  let isEnough = false;
  const patience = new Patience(stallMs, () => response.destroy(new Error(`no byte for ${stallMs} ms`)));
  const fail = (error: unknown): void => {
    patience[Symbol.dispose]();
    reject(error as Error);
    response.destroy();
  };
  const take = (chunk: Buffer): void => {
    const end = at + chunk.length;
    let taken = 0;
    for (let part = left[0]; part !== undefined && part.at < end; part = left[0]) {
      const upTo = Math.min(part.to, end);
      write(chunk.subarray(part.at - at, upTo - at), part.at);
      taken += upTo - part.at;
      part.at = upTo;
      if (part.at === part.to) left.shift();
    }
    at = end;
    if (taken > 0) progress(taken);
  };
  response.on('data', (chunk: Buffer) => {
    if (isEnough) return;
    try {
      take(chunk);
    } catch (error) {
      return fail(error);
    }
    patience.heard();
    if (parts.length === 0 || left.length > 0) return;
    isEnough = true;
    patience[Symbol.dispose]();
    passOver(response);
  });
  response.on('error', (error) => {
    if (!isEnough) fail(new ClassifiedError('unavailable', `the connection broke: ${messageOf(error)}`, { cause: error }));
  });
  // After its end, after an error, or when it is destroyed without any.
  response.on('close', () => {
    patience[Symbol.dispose]();
    if (isEnough || response.complete) resolve(response.complete);
    else reject(new ClassifiedError('unavailable', 'the connection broke'));
  });
  return promise;
}

/** Takes some of a blob's bytes, from `at` on. */
export type Write = (chunk: Uint8Array, at: number) => void;
