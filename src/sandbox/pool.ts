import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { isDeepStrictEqual } from 'node:util';
import { messageOf } from '../base/errors.ts';
import { newId, nowNs } from '../base/ids.ts';
import type { Op } from '../base/op.ts';
import { detached, newOp } from '../base/op.ts';
import { Rollback } from '../base/rollback.ts';
import type { PodSandboxConfig__Output } from '../gen/cri/runtime/v1/PodSandboxConfig.ts';
import type { Attachment, PodNetworkRequest } from '../network/attach.ts';
import { hasNoAddress } from '../network/invoke.ts';
import { createNamespaces, isPinned } from '../os/namespaces.ts';
import type { SandboxDeps, WarmSandboxes } from './deps.ts';
import { podPaths } from './paths.ts';
import type { PodSandboxRecord } from './record.ts';
import { blankConfig, networkRequest, pinnedNamespaces, podBandwidth, userMappings, usesHostNetwork } from './record.ts';
import { teardown } from './teardown.ts';

/** A daemon that has just started has other things to do. */
const START_DELAY_MS = 500;
/** Nothing is prepared before no pod was worked on for this long: between its calls a client that starts a pod takes less. */
const CALM_MS = 25;
/** From half of the limit down a sandbox is prepared beside one operation on a pod: else a client that never rests would soon find none. More are a burst. */
const LOW = 0.5;
/** The next burst of pods comes soon, or who knows when. */
const BURST_MS = 30_000;
/** After a pod found no address, and at first after a failure; doubled for each further one. */
const PAUSE_MS = 30_000;
const MAX_PAUSE_MS = 600_000;
const FILL_TIMEOUT_MS = 120_000;
const END_TIMEOUT_MS = 60_000;
const CLOSE_TIMEOUT_MS = 10_000;
/** A plugin that is killed may leave half an address: one that is at work is let finish, unless it takes longer. */
const FINISH_MS = 2_000;

/** For Status and metrics. `taken` and `missed` count pods that could be served, since the daemon's start. */
export interface WarmStatus {
  readonly limit: number;
  readonly ready: number;
  /** Being prepared or given back. */
  readonly unsettled: number;
  readonly taken: number;
  readonly missed: number;
  /** Why none is prepared, of the last attempt. */
  readonly failure?: string;
}

export interface WarmOptions {
  /** As many are kept ready at most; 0: none. */
  readonly limit: number;
  /** The same for a while after a burst: when a pod found none while more pods than `limit` were worked on. */
  readonly burstLimit: number;
  readonly burstMs?: number;
  /** Operations on pods and containers that are at work. */
  busy(): number;
}

/**
 * Warm sandboxes (DESIGN 3.10): namespaces that are pinned and attached to the network under the id of a pod that is still to come. Their records are those of
 * sandboxes in state `warm`, written before the first plugin runs: what a crash leaves is ready for use or is given back, as its record says. One is prepared
 * at a time, when no burst of pods is at work.
 */
export class WarmPool implements WarmSandboxes {
  readonly #deps: () => SandboxDeps;
  readonly #options: WarmOptions;
  /** Records that are taken, being prepared or given back. A record is replaced when its state changes, and then is held no longer. */
  readonly #held = new WeakSet<PodSandboxRecord>();
  readonly #closing = new AbortController();
  #filling = new AbortController();
  #working: Promise<void> | undefined;
  #isDue = false;
  #timer: NodeJS.Timeout | undefined;
  #pausedUntilMs = 0;
  #burstUntilMs = 0;
  #pauseMs = PAUSE_MS;
  /** At the last look no pod was worked on. */
  #isCalm = false;
  #failure: string | undefined;
  /** As it was at the last look. */
  #conflist: unknown;
  #giving: Promise<void> | undefined;
  #givenBackAtMs = 0;
  #taken = 0;
  #missed = 0;

  constructor(deps: () => SandboxDeps, options: WarmOptions) {
    this.#deps = deps;
    this.#options = options;
  }

  /** After recovery. From now on the pool is filled, and drained when the network's configuration changes. */
  start(): void {
    this.#deps().network.onChange(() => {
      // What failed with another configuration need not fail now.
      [this.#pausedUntilMs, this.#pauseMs] = [0, PAUSE_MS];
      this.#settleSoon(0);
    });
    this.#settleSoon(START_DELAY_MS);
  }

  status(): WarmStatus {
    const all = this.#all();
    const ready = all.filter((record) => !this.#held.has(record) && record.attachment !== undefined).length;
    const counts = { limit: this.#wanted(), ready, unsettled: all.length - ready, taken: this.#taken, missed: this.#missed };
    return { ...counts, ...(this.#failure === undefined ? {} : { failure: this.#failure }) };
  }

  async take(config: PodSandboxConfig__Output, use: (warm: PodSandboxRecord) => PodSandboxRecord): Promise<PodSandboxRecord | undefined> {
    if (this.#options.limit === 0 || !canBeWarm(config)) return undefined;
    // The plain path looks at the configuration by itself.
    const conflist = this.#idle().length === 0 ? this.#conflist : await this.#deps().network.aheadConflist();
    if (conflist === undefined || this.#closing.signal.aborted) return undefined;
    const found = this.#idle().find((record) => this.#isUsable(record, conflist));
    this.#isCalm = false;
    this.#settleSoon(CALM_MS);
    if (found === undefined) {
      this.#missed++;
      if (this.#options.busy() > this.#options.limit) this.#burstUntilMs = performance.now() + (this.#options.burstMs ?? BURST_MS);
      return undefined;
    }
    const used = use(found);
    this.#held.add(found);
    this.#taken++;
    return used;
  }

  async attach(op: Op, request: PodNetworkRequest, conflist: unknown): Promise<Attachment> {
    const { network } = this.#deps();
    const begunAtMs = performance.now();
    try {
      return await network.attach(op, request, conflist);
    } catch (error) {
      if (!hasNoAddress(error)) throw error;
      this.#giving ??= this.#giveBack(op).finally(() => (this.#giving = undefined));
      await this.#giving;
      // By this call or by others', of which another may have taken it all again: the plugin knows.
      if (this.#givenBackAtMs < begunAtMs) throw error;
      return await network.attach(op, request, conflist);
    }
  }

  /** Gives everything back. What is not done within ten seconds has its record, and is left to the next daemon. */
  async close(): Promise<void> {
    this.#closing.abort();
    clearTimeout(this.#timer);
    this.#finishSoon();
    const drain = async (): Promise<void> => {
      await this.#working;
      await this.#endAll(newOp('drain', { log: this.#deps().log, timeoutMs: CLOSE_TIMEOUT_MS }), this.#idle());
    };
    await Promise.race([drain(), sleep(CLOSE_TIMEOUT_MS, undefined, { ref: false })]);
  }

  #all(): PodSandboxRecord[] {
    return this.#deps()
      .store.values()
      .filter(({ state }) => state === 'warm');
  }

  #idle(): PodSandboxRecord[] {
    return this.#all().filter((record) => !this.#held.has(record));
  }

  #wanted(): number {
    const { limit, burstLimit } = this.#options;
    return performance.now() < this.#burstUntilMs ? Math.max(limit, burstLimit) : limit;
  }

  #isUsable({ id, bootId, attachment, config }: PodSandboxRecord, conflist: unknown): boolean {
    const deps = this.#deps();
    const { namespaces } = podPaths(deps.stateDir, id);
    return (
      attachment !== undefined &&
      bootId === deps.bootId &&
      isDeepStrictEqual(attachment.conflist, conflist) &&
      pinnedNamespaces(config).every((kind) => isPinned(join(namespaces, kind)))
    );
  }

  #settleSoon(delayMs: number): void {
    clearTimeout(this.#timer);
    if (this.#closing.signal.aborted) return;
    if (delayMs > 0) this.#timer = setTimeout(() => this.#settleSoon(0), delayMs).unref();
    else {
      this.#isDue = true;
      this.#working ??= this.#work();
    }
  }

  async #work(): Promise<void> {
    try {
      while (this.#isDue && !this.#closing.signal.aborted) {
        this.#isDue = false;
        await this.#settle();
      }
    } catch (error) {
      this.#deps().log.error({ err: messageOf(error) }, 'the pool of warm sandboxes is not kept');
    } finally {
      // In the same turn as the last look at `isDue`.
      this.#working = undefined;
    }
  }

  /** Gives back what can't be used any more, then prepares what is missing or gives back what is too much, one after another. */
  async #settle(): Promise<void> {
    while (!this.#closing.signal.aborted) {
      const conflist = (this.#conflist = await this.#deps().network.aheadConflist());
      const idle = this.#idle();
      const wanted = this.#wanted();
      const usable = idle.filter((record) => this.#isUsable(record, conflist));
      const stale = idle.filter((record) => !usable.includes(record));
      const isMissing = conflist !== undefined && usable.length < wanted;
      const isTime = this.#isTime(usable.length);
      if (!isMissing && isTime) stale.push(...usable.slice(wanted, wanted + 1));
      if (stale.length > 0) {
        if (await this.#endAll(newOp('drain', { log: this.#deps().log, timeoutMs: END_TIMEOUT_MS }), stale)) continue;
        return this.#settleSoon(PAUSE_MS);
      }
      if (isMissing) {
        const pauseMs = this.#pausedUntilMs - performance.now();
        if (pauseMs > 0) return this.#settleSoon(pauseMs);
        if (!isTime) return this.#settleSoon(CALM_MS);
        await this.#fill(conflist);
      } else if (usable.length <= wanted) {
        const burstMs = this.#burstUntilMs - performance.now();
        if (burstMs > 0) this.#settleSoon(burstMs);
        return;
      } else if (!isTime) return this.#settleSoon(CALM_MS);
    }
  }

  #isTime(ready: number): boolean {
    const { limit, busy } = this.#options;
    const isLow = ready <= limit * LOW;
    const wasCalm = this.#isCalm;
    this.#isCalm = busy() === 0;
    return isLow ? busy() <= 1 : this.#isCalm && wasCalm;
  }

  async #fill(conflist: unknown): Promise<void> {
    this.#filling = new AbortController();
    const { signal } = this.#filling;
    try {
      await this.#prepare(newOp('prepare sandbox', { log: this.#deps().log, timeoutMs: FILL_TIMEOUT_MS, signal }), conflist);
      [this.#failure, this.#pauseMs] = [undefined, PAUSE_MS];
    } catch (error) {
      if (signal.aborted) return;
      this.#failure = messageOf(error);
      this.#deps().log.warn({ err: this.#failure, pauseMs: this.#pauseMs }, 'no warm sandbox could be prepared');
      this.#pausedUntilMs = performance.now() + this.#pauseMs;
      this.#pauseMs = Math.min(2 * this.#pauseMs, MAX_PAUSE_MS);
    }
  }

  async #prepare(op: Op, conflist: unknown): Promise<void> {
    const deps = this.#deps();
    const record = { ...warmRecord(deps.bootId), conflist };
    const paths = podPaths(deps.stateDir, record.id);
    this.#held.add(record);
    await using rollback = new Rollback(op);
    rollback.add(`give back warm sandbox ${record.id}`, (undo) => this.#end(undo, record));
    await deps.store.put(record);
    await mkdir(paths.dir, { mode: 0o711 });
    await createNamespaces({ dir: paths.namespaces, kinds: pinnedNamespaces(record.config) });
    const request = { ...networkRequest(record, join(paths.namespaces, 'net')), inBackground: true };
    const attached = { ...record, attachment: await deps.network.attach(op, request, conflist), conflist: undefined };
    // In memory at once, and then it may be taken: from here on nothing is undone. When its file is not written, a restart gives it back.
    rollback.commit();
    await deps.store.note(attached);
  }

  /** An end that fails leaves the record, to be tried again. */
  async #end(op: Op, record: PodSandboxRecord): Promise<void> {
    this.#held.add(record);
    try {
      await teardown(this.#deps(), op, record);
      await this.#deps().store.delete(record.id);
      this.#givenBackAtMs = performance.now();
    } catch (error) {
      this.#held.delete(record);
      throw error;
    }
  }

  /** Whether all of them ended. */
  async #endAll(op: Op, records: readonly PodSandboxRecord[]): Promise<boolean> {
    const results = await Promise.allSettled(records.map((record) => this.#end(op, record)));
    for (const result of results)
      if (result.status === 'rejected') op.log.warn({ err: messageOf(result.reason) }, 'a warm sandbox could not be given back yet');
    return results.every(({ status }) => status === 'fulfilled');
  }

  #finishSoon(): void {
    const filling = this.#filling;
    setTimeout(() => filling.abort(), FINISH_MS).unref();
  }

  /** A pod goes first: no more are prepared for a while. */
  async #giveBack(op: Op): Promise<void> {
    this.#pausedUntilMs = performance.now() + PAUSE_MS;
    this.#finishSoon();
    op.log.info({ sandboxes: this.#all().length }, 'no address is left: the warm sandboxes are given back');
    const own = detached(op, END_TIMEOUT_MS);
    await Promise.all([this.#working, this.#endAll(own, this.#idle())]);
  }
}

/** Whether nothing of the pod has to be known before its network is made. */
export function canBeWarm(config: PodSandboxConfig__Output): boolean {
  return (
    !usesHostNetwork(config) &&
    isDeepStrictEqual(pinnedNamespaces(config), pinnedNamespaces(WARM_CONFIG)) &&
    userMappings(config) === undefined &&
    podBandwidth(config) === undefined &&
    config.portMappings.every(({ hostPort }) => hostPort <= 0) &&
    Object.keys(config.linux?.sysctls ?? {}).every((key) => !/^net[./]/.test(key))
  );
}

const WARM_CONFIG = blankConfig({ name: '', uid: '', namespace: '' });

/** Its network counts as begun: a plugin runs as soon as it is written. */
function warmRecord(bootId: string): PodSandboxRecord {
  const own = { version: 1, id: newId(), state: 'warm', config: WARM_CONFIG, bootId, createdAtNs: String(nowNs()) } as const;
  return { ...own, runtimeHandler: '', cgroupParent: '', ownsCgroupParent: false, networkBegun: true };
}
