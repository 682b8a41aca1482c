import { once } from 'node:events';
import type { IncomingMessage } from 'node:http';
import { setTimeout as sleep } from 'node:timers/promises';
import { ClassifiedError, messageOf } from '../base/errors.ts';
import type { Op } from '../base/op.ts';
import { throwIfOver } from '../base/op.ts';

/** For an answer to end by itself, so that its connection can be used again. */
const LINGER_MS = 200;

/** The body of an answer, until it ends or `isEnough`. unavailable when it breaks off, or when no byte comes for `stallMs` (R35). */
export async function* stallGuarded(
  response: IncomingMessage,
  op: Op,
  { stallMs, isEnough }: { stallMs: number; isEnough: () => boolean },
): AsyncGenerator<Buffer> {
  // Time spent writing to our own disk is not the registry's: the clock runs only while we wait for it.
  const wait = (): NodeJS.Timeout => setTimeout(() => response.destroy(new Error(`no byte for ${stallMs} ms`)), stallMs);
  let timer = wait();
  try {
    for await (const chunk of response.iterator({ destroyOnReturn: false }) as AsyncIterable<Buffer>) {
      clearTimeout(timer);
      throwIfOver(op);
      yield chunk;
      if (isEnough()) return await leave(response);
      timer = wait();
    }
  } catch (error) {
    throw error instanceof ClassifiedError
      ? error
      : new ClassifiedError('unavailable', `the connection broke: ${messageOf(error)}`, { cause: error });
  } finally {
    clearTimeout(timer);
    response.destroy();
  }
}

/** Resolves when it has ended, or has not for a while and is torn down. */
async function leave(response: IncomingMessage): Promise<void> {
  response.on('error', () => undefined);
  if (response.readableEnded || response.destroyed) return;
  const ended = once(response, 'close').catch(() => undefined);
  response.resume();
  await Promise.race([ended, sleep(LINGER_MS)]);
  response.destroy();
}
