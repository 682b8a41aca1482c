import { anySignal } from '../base/any-signal.ts';
import type { Digest } from '../base/digest.ts';
import { ClassifiedError, kindOf, messageOf } from '../base/errors.ts';
import type { Op } from '../base/op.ts';
import { throwIfOver } from '../base/op.ts';
import type { AskBlob, BlobAnswer } from '../os/http-client.ts';
import type { Part } from './missing.ts';
import { Missing } from './missing.ts';
import { retried } from './retry.ts';
import type { Tries } from './retry.ts';

/** Takes one blob: each byte once, in any order, then `commit`, which verifies. */
export interface BlobSink {
  /** Of the answers' bodies it takes what it is told to. */
  readonly ask: AskBlob;
  /** Told of so many bytes more that it has taken. */
  took(bytes: number): void;
  /** dataLoss when it is not the blob that was asked for. */
  commit(): Promise<unknown>;
}

/** Leave to open one more connection. */
export interface Leave extends Disposable {
  /** Somebody else waits for one. */
  readonly isWanted: boolean;
}

export interface BlobRequest {
  readonly digest: Digest;
  readonly sizeBytes: number;
  /** Again, when what had come is not the blob. */
  begin(): Promise<BlobSink>;
  /** For large blobs; undefined: not now. */
  more?(): Leave | undefined;
}

/** GET of the blob from one host, answered with 200 or 206; refusals are thrown. */
export type GetBlob = (op: Op, headers: Readonly<Record<string, string>>, ask: AskBlob) => Promise<BlobAnswer>;

/** A part of this size takes far longer than to ask for it, and is soon read by who follows. */
const PART_BYTES = 8 << 20;
/** When nobody helps, to ask rarely. */
const ALONE_BYTES = 64 << 20;
/** Below, one connection does. */
const SPLIT_BYTES = 16 << 20;
const MAX_HELPERS = 3;
/** After so many bytes a broken connection counts as the first. */
const PROGRESS_BYTES = 1 << 20;
const RANGE_NOT_SATISFIABLE = 416;

/**
 * Fetches one blob, from one host after another; what one has brought, the next need not. Large ones come by ranges over several connections where the host
 * knows ranges and the node's cap leaves room (P4). The first connection insists, its helpers give up at once: what they had to bring is its again.
 */
export class BlobFetch {
  readonly #request: BlobRequest;
  readonly #stallMs: number;
  #sink: BlobSink | undefined;
  #missing: Missing;
  /** How many hosts it came from. */
  #sources = 0;

  constructor(request: BlobRequest, stallMs: number) {
    this.#request = request;
    this.#stallMs = stallMs;
    this.#missing = new Missing(request.sizeBytes);
  }

  /** All that is missing from this host, with its helpers, and the commit. dataLoss: the host's bytes are not the blob. */
  async from(op: Op, get: GetBlob): Promise<void> {
    const isResumed = this.#sink !== undefined;
    this.#sources++;
    try {
      await this.#fetch(op, get);
    } catch (error) {
      if (kindOf(error) !== 'dataLoss') throw error;
      this.#sink = undefined;
      this.#missing = new Missing(this.#request.sizeBytes);
      const isMixed = isResumed && this.#sources > 1;
      this.#sources = 0;
      if (!isMixed) throw error;
      // Which of the hosts it was nobody knows.
      await this.from(op, get);
    }
  }

  async #fetch(op: Op, get: GetBlob): Promise<void> {
    const sink = (this.#sink ??= await this.#request.begin());
    const helpersEnd = new AbortController();
    const host = new HostState({ ...op, signal: anySignal([op.signal, helpersEnd.signal]) }, { get, sink });
    try {
      await retried(op, (tries) => this.#insist(op, host, tries));
    } catch (error) {
      helpersEnd.abort(error);
      throw error;
    } finally {
      await Promise.all(host.helpers);
    }
    await sink.commit();
  }

  async #insist(op: Op, host: HostState, tries: Tries): Promise<void> {
    // An empty blob is asked for too: its host says whether there is one.
    for (let isFirst = true; isFirst || !this.#missing.isDone; isFirst = false) {
      if (host.failure !== undefined) throw host.failure;
      const part = this.#missing.take(this.#partBytes(host));
      if (part === undefined && host.helpers.size > 0) await Promise.race(host.helpers);
      else await this.#bring(op, host, part ?? { at: 0, to: 0 }, { tries, isOurs: part !== undefined });
    }
  }

  #partBytes(host: HostState): number {
    if (this.#request.sizeBytes <= SPLIT_BYTES) return Infinity;
    // Nobody can help before it is known whether the host knows ranges.
    return host.helpers.size > 0 || !host.knowsRanges ? PART_BYTES : ALONE_BYTES;
  }

  /** One helper; never rejects. */
  async #help(host: HostState, leave: Leave): Promise<void> {
    using _ = leave;
    try {
      for (
        let part = this.#missing.take(PART_BYTES);
        part !== undefined;
        part = leave.isWanted ? undefined : this.#missing.take(PART_BYTES)
      )
        await this.#bring(host.helpersOp, host, part, { isOurs: true });
    } catch (error) {
      // What the host refuses to a helper the first connection will hear too; what our disk refuses, or is no blob, nobody else finds out.
      if (!(error instanceof ClassifiedError) || error.kind === 'dataLoss') host.failure ??= error;
      host.helpersOp.log.debug({ err: messageOf(error) }, 'a connection for a part of a blob ended');
    }
  }

  async #bring(op: Op, host: HostState, part: Part, { tries, isOurs }: { tries?: Tries; isOurs: boolean }): Promise<void> {
    const parts = isOurs ? [part] : [];
    try {
      const answer = await this.#ask(op, host, part);
      let at = part.at;
      if (answer.status === 206) {
        at = firstOf(answer) ?? part.at;
        if (at > part.at) {
          answer.drop();
          throw new ClassifiedError('unavailable', `blob ${this.#request.digest}: its host served another range than asked`);
        }
        host.knowsRanges = true;
        this.#callHelpers(host);
      } else {
        // All of it: then all that nobody brings comes by this connection.
        at = 0;
        for (let more = this.#missing.take(Infinity); more !== undefined; more = this.#missing.take(Infinity)) parts.push(more);
        parts.sort((a, b) => a.at - b.at);
      }
      const begunAt = part.at;
      let progress = 0;
      const isComplete = await answer.receive({
        ...{ at, parts, stallMs: this.#stallMs },
        progress: (bytes) => {
          progress += bytes;
          host.sink.took(bytes);
          if (progress >= PROGRESS_BYTES && tries) tries.count = 0;
        },
      });
      throwIfOver(op);
      const left = parts.find((each) => each.at < each.to);
      // A host may serve less than it was asked for: what it served counts, and the rest is asked for.
      if (left !== undefined && (answer.status !== 206 || left.at === begunAt || !isComplete))
        throw new ClassifiedError(
          'unavailable',
          `blob ${this.#request.digest}: the connection ended after ${left.at} of ${this.#request.sizeBytes} bytes`,
        );
    } finally {
      for (const each of parts) this.#missing.giveBack(each);
    }
  }

  async #ask(op: Op, host: HostState, part: Part): Promise<BlobAnswer> {
    const { sizeBytes } = this.#request;
    if (host.refusesRanges || (part.at === 0 && sizeBytes <= SPLIT_BYTES)) return host.get(op, {}, host.sink.ask);
    try {
      const range = part.to === sizeBytes ? `bytes=${part.at}-` : `bytes=${part.at}-${part.to - 1}`;
      return await host.get(op, { range }, host.sink.ask);
    } catch (error) {
      if (!(error instanceof ClassifiedError) || error.detail?.['status'] !== RANGE_NOT_SATISFIABLE) throw error;
      host.refusesRanges = true;
      return host.get(op, {}, host.sink.ask);
    }
  }

  #callHelpers(host: HostState): void {
    const { more } = this.#request;
    while (host.helpers.size < MAX_HELPERS && this.#missing.freeBytes > PART_BYTES) {
      const leave = more?.();
      if (leave === undefined) return;
      const helper: Promise<void> = this.#help(host, leave).finally(() => host.helpers.delete(helper));
      host.helpers.add(helper);
    }
  }
}

/** What is known of the host that is asked at the moment, and who asks it. */
class HostState {
  readonly helpersOp: Op;
  readonly get: GetBlob;
  readonly sink: BlobSink;
  readonly helpers = new Set<Promise<void>>();
  refusesRanges = false;
  knowsRanges = false;
  /** Of a helper, and final. */
  failure: unknown;

  constructor(helpersOp: Op, { get, sink }: { get: GetBlob; sink: BlobSink }) {
    this.helpersOp = helpersOp;
    this.get = get;
    this.sink = sink;
  }
}

/** Where a partial answer begins; undefined: it does not say. */
function firstOf(answer: BlobAnswer): number | undefined {
  const first = /^bytes (\d+)-/.exec(answer.headers['content-range'] ?? '')?.[1];
  return first === undefined ? undefined : Number(first);
}
