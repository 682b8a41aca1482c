import { setTimeout as sleep } from 'node:timers/promises';
import { ClassifiedError } from '../base/errors.ts';
import type { Op } from '../base/op.ts';

const TRIES = 4;
const FIRST_WAIT_MS = 250;
const MAX_WAIT_MS = 10_000;
/** A host that asks for more patience is as good as gone. */
const MAX_ASKED_MS = 60_000;

/** Repeats work that fails in passing (429, 5xx, a broken connection), after a while that doubles, or as long as the host asked for (P6). */
export async function retried<T>(op: Op, work: (tries: Tries) => Promise<T>): Promise<T> {
  const tries = new Tries();
  for (;;) {
    try {
      return await work(tries);
    } catch (error) {
      tries.count++;
      if (op.signal.aborted || tries.count >= TRIES || !isTransient(error)) throw error;
      await sleep(waitMs(error, tries.count), undefined, { signal: op.signal });
    }
  }
}

/** Tries that failed in a row. */
export class Tries {
  count = 0;
}

/** No connection, or no answer on it. A name that does not resolve or a port where nobody listens is not worth waiting for: the next host is. */
export const isUnreachable = (error: ClassifiedError): boolean => error.detail?.['isUnreachable'] === true;

function isTransient(error: unknown): boolean {
  if (!(error instanceof ClassifiedError) || error.kind !== 'unavailable' || isUnreachable(error)) return false;
  const status = error.detail?.['status'];
  return status === undefined || status === 429 || (typeof status === 'number' && status >= 500);
}

function waitMs(error: unknown, tried: number): number {
  const asked = error instanceof ClassifiedError ? askedMs(error.detail?.['retryAfter']) : 0;
  return Math.max(Math.min(MAX_ASKED_MS, asked), Math.min(MAX_WAIT_MS, FIRST_WAIT_MS * 2 ** (tried - 1)));
}

/** `Retry-After`: seconds or a date (RFC 9110, 10.2.3). */
function askedMs(value: unknown): number {
  if (typeof value !== 'string') return 0;
  const ms = /^\d+$/.test(value) ? Number(value) * 1000 : Date.parse(value) - Date.now();
  return Number.isFinite(ms) ? Math.max(0, ms) : 0;
}
