import { setTimeout as sleep } from 'node:timers/promises';
import { ClassifiedError, messageOf } from '../base/errors.ts';
import type { Logger } from '../base/log.ts';
import { detached, newOp } from '../base/op.ts';
import type { Op } from '../base/op.ts';
import type { Attachment, Begun, Network, NetworkStatus, PodNetworkRequest } from './attach.ts';
import { allowsAhead } from './ahead.ts';
import { addChain, checkChain, delChain } from './chain.ts';
import type { Chain } from './chain.ts';
import type { Conflist, LoadedConf } from './conflist.ts';
import { isAtLeast, loadConflist, stampOf } from './conflist.ts';
import { CNI_ERROR, findPlugin, invoke } from './invoke.ts';
import { releaseStale } from './ipam-gc.ts';
import { endPlugins } from './leftovers.ts';

/** Also how often a network that is not well is asked again. */
const POLL_MS = 2_000;
const STATUS_EVERY_MS = 10_000;
const VERB_TIMEOUT_MS = 10_000;
const START_PATIENCE_MS = 1_000;
const CLEANUP_TIMEOUT_MS = 60_000;

export interface NetworkOptions {
  readonly config: {
    readonly confDir: string;
    readonly binDirs: readonly string[];
    /** A network that was ready may fail this long before it counts: plugins are restarted and upgraded (R29). */
    readonly statusGraceMs: number;
  };
  readonly stateDir: string;
  readonly log: Logger;
}

/** CNI: the first conflist of the directory, noticed anew when the directory changes. */
export async function createNetwork(options: NetworkOptions): Promise<Network & { close(): Promise<void> }> {
  const network = new CniNetwork(options);
  await network.start();
  return network;
}

/** What the plugins last said of themselves. Failures count at once until they were well for the first time. */
interface Health {
  readonly atMs: number;
  readonly failure: string | undefined;
  readonly failingSinceMs: number | undefined;
  readonly wasReady: boolean;
}

const UNKNOWN: Health = { atMs: 0, failure: undefined, failingSinceMs: undefined, wasReady: false };

class CniNetwork implements Network {
  readonly #confDir: string;
  readonly #binDirs: readonly string[];
  readonly #log: Logger;
  #stamp = '';
  #conf: LoadedConf = { conflist: undefined, problems: [] };
  readonly #statusGraceMs: number;
  #health: Health = UNKNOWN;
  #timer: NodeJS.Timeout | undefined;
  readonly #closing = new AbortController();
  #polling: Promise<void> | undefined;
  readonly #listeners: Array<() => void> = [];

  constructor({ config, log }: NetworkOptions) {
    this.#confDir = config.confDir;
    this.#binDirs = config.binDirs;
    this.#statusGraceMs = config.statusGraceMs;
    this.#log = log;
  }

  /** Does not wait long for plugins that don't answer: the daemon is up without them (R6). */
  async start(): Promise<void> {
    await this.#reload();
    this.#health = { ...UNKNOWN, failure: 'the cni plugins have not said yet that they are ready' };
    const poll = (): Promise<void> => (this.#polling ??= this.#poll().finally(() => (this.#polling = undefined)));
    this.#timer = setInterval(() => void poll(), POLL_MS).unref();
    await Promise.race([poll(), sleep(START_PATIENCE_MS, undefined, { ref: false })]);
  }

  async #poll(): Promise<void> {
    try {
      await this.#reload();
      if (this.#health.failure !== undefined || Date.now() - this.#health.atMs >= STATUS_EVERY_MS) await this.#pollStatus();
    } catch (error) {
      this.#log.warn({ err: messageOf(error) }, 'the CNI configuration can not be read');
    }
  }

  async #reload(): Promise<void> {
    const stamp = await stampOf(this.#confDir);
    if (stamp === this.#stamp && this.#stamp !== '') return;
    const before = this.#conf.conflist?.name;
    this.#conf = await loadConflist(this.#confDir);
    this.#stamp = stamp;
    for (const problem of this.#conf.conflist === undefined ? [] : this.#conf.problems)
      this.#log.warn({ problem }, 'a CNI configuration is passed over');
    // What has changed is asked soon.
    this.#health = { ...this.#health, atMs: 0 };
    for (const listener of this.#listeners) listener();
    if (this.#conf.conflist?.name === before) return;
    // Another network owes nothing to the health of the one before.
    this.#health = UNKNOWN;
    this.#log.info({ network: this.#conf.conflist?.name ?? 'none' }, 'CNI configuration');
  }

  async #pollStatus(): Promise<void> {
    const { conflist } = this.#conf;
    if (conflist === undefined) return;
    const before = this.#health;
    const failure = await this.#failureOf(conflist);
    // A configuration that came meanwhile is asked for itself.
    if (this.#conf.conflist?.name !== conflist.name) return;
    const nowMs = Date.now();
    const failingSinceMs = failure === undefined ? undefined : (before.failingSinceMs ?? nowMs);
    this.#health = { atMs: nowMs, failure, failingSinceMs, wasReady: before.wasReady || failure === undefined };
    if ((failure === undefined) !== (before.failure === undefined))
      this.#log[failure === undefined ? 'info' : 'warn']({ network: conflist.name, err: failure }, 'health of the pod network');
  }

  /** What a plugin has against it, undefined for nothing: one that is not installed can't say so itself. */
  async #failureOf(conflist: Conflist): Promise<string | undefined> {
    try {
      for (const { type } of conflist.plugins) findPlugin(type, this.#binDirs);
      if (isAtLeast(conflist.cniVersion, '1.1.0')) for (const plugin of conflist.plugins) await this.#verb('STATUS', conflist, plugin, {});
      return undefined;
    } catch (error) {
      return messageOf(error);
    }
  }

  /** STATUS and GC are younger than many plugins: one that does not know them has nothing against it. */
  async #verb(
    command: 'STATUS' | 'GC',
    conflist: Conflist,
    plugin: Conflist['plugins'][number],
    more: Record<string, unknown>,
  ): Promise<void> {
    const { capabilities: _capabilities, ...own } = plugin;
    const config = { ...own, cniVersion: conflist.cniVersion, name: conflist.name, ...more };
    try {
      await invoke(newOp(`cni ${command}`, { log: this.#log, timeoutMs: VERB_TIMEOUT_MS, signal: this.#closing.signal }), {
        command,
        type: plugin.type,
        binDirs: this.#binDirs,
        parameters: {},
        config,
      });
    } catch (error) {
      const code = error instanceof ClassifiedError ? error.detail?.['cniCode'] : undefined;
      if (code !== CNI_ERROR.invalidEnvironment && code !== CNI_ERROR.incompatibleVersion) throw error;
    }
  }

  status(): NetworkStatus {
    const notReady = (message: string): NetworkStatus => ({ ready: false, reason: 'NetworkPluginNotReady', message });
    if (this.#conf.conflist === undefined) return notReady(`cni config uninitialized: ${this.#conf.problems.join('; ')}`);
    const { failure, failingSinceMs = 0, wasReady } = this.#health;
    if (failure === undefined || (wasReady && Date.now() - failingSinceMs < this.#statusGraceMs))
      return { ready: true, reason: '', message: '' };
    return notReady(failure);
  }

  async conflist(): Promise<Conflist> {
    await this.#reload();
    const { conflist, problems } = this.#conf;
    if (conflist === undefined) throw new ClassifiedError('failedPrecondition', `attach pod network: ${problems.join('; ')}`);
    return conflist;
  }

  async attach(op: Op, request: PodNetworkRequest, conflist?: unknown): Promise<Attachment> {
    const chain = { conflist: (conflist as Conflist | undefined) ?? (await this.conflist()), binDirs: this.#binDirs };
    try {
      return await addChain(op, chain, request);
    } catch (error) {
      // Under a deadline of its own: the request's is often what ended the ADD (R3). The caller's teardown tries again what fails here.
      await delChain(detached(op, CLEANUP_TIMEOUT_MS), chain, request, undefined).catch((failure: unknown) =>
        op.log.warn({ err: messageOf(failure) }, 'a failed attachment could not be undone at once'),
      );
      throw error;
    }
  }

  async aheadConflist(): Promise<unknown> {
    await this.#reload();
    const { conflist } = this.#conf;
    return conflist !== undefined && allowsAhead(conflist) ? conflist : undefined;
  }

  onChange(listener: () => void): void {
    this.#listeners.push(listener);
  }

  async detach(op: Op, request: PodNetworkRequest, begun: Begun | undefined): Promise<void> {
    const chain = await this.#chainOf(begun);
    if (chain === undefined) return;
    if (begun?.result === undefined) await endPlugins(op, request.sandboxId);
    try {
      await delChain(op, chain, request, begun?.result);
    } catch (error) {
      // Without a namespace nothing is left in it; the address is released at once, what plugins keep elsewhere when GC asks (R4).
      if (request.netnsPath !== '') throw error;
      op.log.warn({ sandbox: request.sandboxId, err: messageOf(error) }, 'detach without a network namespace');
      await releaseStale(chain.conflist, (id) => id !== request.sandboxId);
    }
  }

  async check(op: Op, request: PodNetworkRequest, attachment: Attachment): Promise<void> {
    const chain = await this.#chainOf(attachment);
    if (chain) await checkChain(op, chain, request, attachment.result);
  }

  /** The conflist that ADD used, else the one there is now. */
  async #chainOf(begun: Begun | undefined): Promise<Chain | undefined> {
    if (begun !== undefined) return { conflist: begun.conflist as Conflist, binDirs: this.#binDirs };
    await this.#reload();
    return this.#conf.conflist && { conflist: this.#conf.conflist, binDirs: this.#binDirs };
  }

  async gc(op: Op, validSandboxIds: readonly string[]): Promise<void> {
    await this.#reload();
    const { conflist } = this.#conf;
    if (conflist === undefined || conflist.disableGc) return;
    const valid = new Set(validSandboxIds);
    const released = await releaseStale(conflist, (id) => valid.has(id));
    if (released.length > 0) op.log.info({ addresses: released }, 'addresses of pods that are gone were released');
    if (!isAtLeast(conflist.cniVersion, '1.1.0')) return;
    const attachments = validSandboxIds.map((containerID) => ({ containerID, ifname: 'eth0' }));
    for (const plugin of conflist.plugins)
      await this.#verb('GC', conflist, plugin, { 'cni.dev/valid-attachments': attachments, 'cni.dev/attachments': attachments });
  }

  async close(): Promise<void> {
    clearInterval(this.#timer);
    this.#closing.abort();
    await this.#polling;
  }
}
