import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { anySignal } from '../base/any-signal.ts';
import { ClassifiedError, errnoOf, messageOf, notFound, wrap } from '../base/errors.ts';
import { KeyedLock } from '../base/keyed-lock.ts';
import type { Logger } from '../base/log.ts';
import type { Op } from '../base/op.ts';
import { newOp, orOver, throwIfOver } from '../base/op.ts';
import { Rollback } from '../base/rollback.ts';
import { SingleFlight } from '../base/single-flight.ts';
import type { HandlerConfig } from '../config/config.ts';
import { cgroupOf, killCgroup, procsIn, readOomKills } from '../os/cgroup.ts';
import { expectCgroupMoves } from '../os/cgroup-moves.ts';
import { processRef, signal as signalProcess } from '../os/process.ts';
import { Attachment } from './attachment.ts';
import { RuntimeCli } from './cli.ts';
import { cgroupPathOf } from './cgroup-path.ts';
import { exec } from './exec.ts';
import type { ExecContext } from './exec-process.ts';
import { execSync } from './exec-sync.ts';
import { awaitExit } from './exits.ts';
import { discoverFeatures, NO_FEATURES } from './features.ts';
import { reopenLog, resizeTerminal, startMonitor } from './monitor.ts';
import type { MonitorOptions } from './monitor.ts';
import { findProgram } from './program.ts';
import type {
  AttachRequest,
  CreateRequest,
  CreatedContainer,
  ExecRequest,
  ExecResult,
  ExecStreamRequest,
  HandlerFeatures,
  Resources,
  Runtime,
  RuntimeExit,
  TerminalSize,
} from './runtime.ts';
import { killSandboxed } from './sandboxed.ts';
import { startByFifo } from './start-fifo.ts';
import { StateDir } from './state-dir.ts';
import type { ContainerState } from './state-dir.ts';
import { dismantle } from './teardown.ts';
import { runtimeWords } from './words.ts';

const SIGKILL = 9;
const DELETE_TIMEOUT_MS = 60_000;
const EXIT_FILE_TIMEOUT_MS = 5000;
/** Until the runtime has moved the new process into the container's cgroup. */
const EXEC_JOIN_MS = 20;

export interface OciRuntimeOptions {
  readonly handler: HandlerConfig;
  readonly conmonPath: string;
  /** `<state>/runtime/<handler>`: on a tmpfs, so that it outlives the daemon and not a reboot. Exit codes are kept in it. */
  readonly stateDir: string;
  readonly cgroupDriver: 'cgroupfs' | 'systemd';
  readonly log: Logger;
  /** A rootfs can be idmapped here; where not there are no user namespaces, whatever the runtime says. Default true. */
  readonly idmaps?: boolean;
  /**
   * Cgroup that monitors are moved to. Without one they stay in the daemon's: outside every pod's memory limit as well (R20). A request's
   * cgroupParent is not used for it: kubelet's is the pod's own, limited and, on v2, no place for processes.
   */
  readonly monitorCgroup?: string;
  /** How long conmon may take to write the exit file once init has ended; 5 s. */
  readonly exitFileTimeoutMs?: number;
}

/** What tests of a conmon container use beyond the OCI verbs. */
export interface OciRuntime extends Runtime {
  /** conmon's attach socket (SOCK_SEQPACKET). */
  attachSocket(id: string): string;
  /** In characters, 0-1000 each. */
  resizeTerminal(id: string, size: TerminalSize): Promise<void>;
}

/** Driver of runc and what takes its command line (crun, runsc), with one conmon per container. */
class ConmonRuntime implements OciRuntime {
  readonly handler: string;
  readonly #cli: RuntimeCli;
  readonly #monitor: Omit<MonitorOptions, 'ownConsoleDir'>;
  readonly #state: StateDir;
  readonly #log: Logger;
  readonly #idmaps: boolean;
  readonly #exitFileTimeoutMs: number;
  readonly #deletes = new SingleFlight<void>();
  readonly #control = new KeyedLock();
  readonly #attachments = new Map<string, Attachment>();
  readonly #creates = new Map<string, { readonly abort: AbortController; readonly done: Promise<unknown> }>();
  #features: Promise<HandlerFeatures> | undefined;

  constructor(options: OciRuntimeOptions) {
    this.handler = options.handler.name;
    this.#state = new StateDir(options.stateDir);
    const systemd = options.cgroupDriver === 'systemd' ? ['--systemd-cgroup'] : [];
    this.#cli = new RuntimeCli(options.handler.path, [...options.handler.args, `--root=${this.#state.root}`, ...systemd]);
    this.#monitor = {
      conmonPath: findProgram(options.conmonPath),
      runtimePath: this.#cli.path,
      runtimeArgs: this.#cli.globals,
      socketsDir: this.#state.sockets,
      cgroup: options.monitorCgroup,
    };
    this.#log = options.log;
    this.#idmaps = options.idmaps ?? true;
    this.#exitFileTimeoutMs = options.exitFileTimeoutMs ?? EXIT_FILE_TIMEOUT_MS;
  }

  features(): Promise<HandlerFeatures> {
    this.#features ??= discoverFeatures(newOp('features', { log: this.#log, timeoutMs: 10_000 }), [this.#cli.path]).then((found) => {
      // One that did not answer this time is asked again.
      if (found === undefined) this.#features = undefined;
      const features = found ?? NO_FEATURES;
      return { ...features, userNamespaces: features.userNamespaces && this.#idmaps };
    });
    return this.#features;
  }

  async version(op: Op): Promise<string> {
    return (await this.#cli.traits(op)).version;
  }

  async create(op: Op, request: CreateRequest): Promise<CreatedContainer> {
    const { id } = request;
    const abort = new AbortController();
    const { promise: done, resolve } = Promise.withResolvers<void>();
    if (this.#creates.has(id)) throw new ClassifiedError('alreadyExists', `container ${id} is being created`);
    this.#creates.set(id, { abort, done });
    try {
      return await this.#create({ ...op, signal: anySignal([op.signal, abort.signal]) }, request);
    } catch (error) {
      throw wrap(`${this.#cli.name} create ${id}`, error);
    } finally {
      this.#creates.delete(id);
      resolve();
    }
  }

  async #create(op: Op, request: CreateRequest): Promise<CreatedContainer> {
    const { id, bundle, io } = request;
    const config = JSON.parse(readFileSync(join(bundle, 'config.json'), 'utf8')) as { hooks?: { poststart?: readonly unknown[] } };
    const hasStartHooks = (config.hooks?.poststart ?? []).length > 0;
    const cgroupPath = cgroupPathOf(config);
    const state = { version: 1, bundle, logPath: io.logPath, tty: io.tty, cgroupPath, hasStartHooks, created: undefined } as const;
    const { hostProcesses } = await this.#cli.traits(op);
    const files = this.#state.add(id, state);
    await using rollback = new Rollback(op);
    rollback.add(`delete container ${id}`, (undo) => this.#dismantle(undo, id));
    const created = await startMonitor(op, { ...this.#monitor, ownConsoleDir: hostProcesses }, files, request);
    this.#state.write(id, { ...state, cgroupPath: this.#cgroupOf(created) ?? state.cgroupPath, created });
    rollback.commit();
    return created;
  }

  /** What the kernel says, unless that is the root: a runtime that confines nothing must not make us kill the node. */
  #cgroupOf(created: CreatedContainer): string | undefined {
    try {
      const path = cgroupOf(created.init.pid);
      return path === '/' || path === cgroupOf(process.pid) ? undefined : path;
    } catch {
      return undefined;
    }
  }

  async start(op: Op, id: string): Promise<void> {
    const { created, hasStartHooks } = await this.#needed(id);
    const { startFifo } = await this.#cli.traits(op);
    const fifo = join(this.#state.root, id, 'exec.fifo');
    if (created && startFifo && !hasStartHooks && (await startByFifo(op, fifo, startFifo, created.init))) return;
    await this.#cli.verb(op, ['start', id]);
  }

  async isStarted(op: Op, id: string): Promise<boolean> {
    const { exitCode, stdout, stderr } = await this.#cli.run(op, ['state', id]);
    if (exitCode !== 0) throw new ClassifiedError('internal', `${this.#cli.name} state ${id}: ${runtimeWords(stderr.toString('utf8'))}`);
    // OCI runtime-spec, "State": creating, created, running or stopped; runc and crun know paused too.
    const { status } = JSON.parse(stdout.toString('utf8')) as { status?: unknown };
    return status === 'running' || status === 'paused';
  }

  async kill(op: Op, id: string, signal: number, all: boolean): Promise<void> {
    const state = this.#state.read(id);
    if (!state?.created) return;
    if (signal === SIGKILL) await this.#noteKill(id, state);
    const traits = await this.#cli.traits(op);
    if (!traits.hostProcesses && !(all && signal === SIGKILL)) {
      const { exitCode, stderr } = await this.#cli.run(op, ['kill', ...(all ? ['--all'] : []), id, String(signal)]);
      if (exitCode !== 0) op.log.info({ container: id, err: runtimeWords(stderr.toString()) }, 'signal not delivered');
      return;
    }
    if (!all || !state.cgroupPath) {
      signalProcess(state.created.init, signal);
      return;
    }
    if (signal === SIGKILL) {
      await orOver(op, killCgroup(state.cgroupPath));
      return;
    }
    for (const pid of await procsIn(state.cgroupPath)) {
      const ref = processRef(pid);
      if (ref) signalProcess(ref, signal);
    }
  }

  /** An OOM kill counted before our own SIGKILL isn't what ended the container. What can't be noted, on a full disk, must not keep it from being killed (R11). */
  async #noteKill(id: string, state: ContainerState): Promise<void> {
    const count = state.cgroupPath === undefined ? undefined : await readOomKills(state.cgroupPath);
    try {
      writeFileSync(this.#state.files(id).oomBaseline, String(count ?? 0), { flag: 'wx', mode: 0o600 });
    } catch (error) {
      const errno = errnoOf(error);
      if (errno !== 'EEXIST' && errno !== 'ENOENT') this.#log.warn({ container: id, err: messageOf(error) }, 'OOM kills are not noted');
    }
  }

  async waitExit(id: string, created: CreatedContainer): Promise<RuntimeExit> {
    const state = this.#state.read(id);
    return awaitExit({
      id,
      created,
      files: this.#state.files(id),
      cgroupPath: state?.cgroupPath,
      log: this.#log,
      exitFileTimeoutMs: this.#exitFileTimeoutMs,
    });
  }

  async delete(op: Op, id: string): Promise<void> {
    const creating = this.#creates.get(id);
    if (creating) {
      creating.abort.abort();
      await orOver(op, creating.done);
    }
    await orOver(op, this.#dismantle(op, id));
    this.#attachments.get(id)?.end();
  }

  /** One teardown at a time of a container; it runs to its end under deadlines of its own, whoever stops waiting. */
  #dismantle(op: Op, id: string): Promise<void> {
    return this.#deletes.run(id, () =>
      dismantle(newOp('delete container', { log: op.log, timeoutMs: DELETE_TIMEOUT_MS }), {
        id,
        stateDir: this.#state,
        runtime: this.#cli.argv,
        executables: [this.#cli.path, this.#monitor.conmonPath],
      }),
    );
  }

  async execSync(op: Op, id: string, request: ExecRequest): Promise<ExecResult> {
    return this.#execute(op, id, (context) => execSync(op, context, request));
  }

  async exec(op: Op, id: string, request: ExecStreamRequest): Promise<number> {
    return this.#execute(op, id, (context) => exec(op, context, request));
  }

  async #execute<T>(op: Op, id: string, work: (context: ExecContext) => Promise<T>): Promise<T> {
    expectCgroupMoves(EXEC_JOIN_MS);
    const state = await this.#needed(id);
    const traits = await this.#cli.traits(op);
    const runtime = this.#cli.argv;
    try {
      return await work({
        id,
        runtime,
        runtimeName: this.#cli.name,
        dir: this.#state.files(id).dir,
        socketsDir: this.#state.sockets,
        cgroupPath: state.cgroupPath,
        detaches: traits.hostProcesses,
        subCgroups: traits.subCgroups,
        killInside: traits.hostProcesses ? undefined : (killOp, pidFile) => killSandboxed(killOp, runtime, id, pidFile),
      });
    } catch (error) {
      throw wrap(`${this.#cli.name} exec ${id}`, error);
    }
  }

  async update(op: Op, id: string, resources: Resources): Promise<void> {
    await this.#needed(id);
    // all of the drivers' programs read the resources of config.json's linux section from a file; /dev/stdin is one
    await this.#cli.verb(op, ['update', '--resources', '/dev/stdin', id], JSON.stringify(resources.linux));
  }

  async reopenLog(op: Op, id: string): Promise<void> {
    const { bundle, logPath, created } = await this.#needed(id);
    if (logPath === undefined || !created) return;
    using _lock = await this.#control.lock(id);
    try {
      await reopenLog(op, { id, bundle, logPath, monitor: created.monitor });
    } catch (error) {
      throw wrap(`reopen log of ${id}`, error);
    }
  }

  async attach(op: Op, id: string, { io, streams }: AttachRequest): Promise<void> {
    await this.#needed(id);
    throwIfOver(op);
    const { promise: ended, resolve, reject } = Promise.withResolvers<void>();
    let detach: () => void;
    try {
      detach = this.#attachment(id, io).add(streams, (error) => (error ? reject(error) : resolve()));
    } catch (error) {
      throw wrap(`attach to ${id}`, error);
    }
    if (io.tty) streams.onResize(latestOnly((size) => this.resizeTerminal(id, size)));
    try {
      await orOver(op, ended);
    } finally {
      detach();
    }
  }

  #attachment(id: string, io: AttachRequest['io']): Attachment {
    const found = this.#attachments.get(id);
    if (found) return found;
    const made = new Attachment(this.attachSocket(id), io, () => this.#attachments.delete(id));
    this.#attachments.set(id, made);
    return made;
  }

  attachSocket(id: string): string {
    return join(this.#state.files(id).socketLink, 'attach');
  }

  async resizeTerminal(id: string, size: TerminalSize): Promise<void> {
    const { bundle } = await this.#needed(id);
    using _lock = await this.#control.lock(id);
    await resizeTerminal({ id, bundle }, size);
  }

  async list(): Promise<string[]> {
    return this.#state.ids();
  }

  async #needed(id: string): Promise<ContainerState> {
    const state = this.#state.read(id);
    if (!state) throw notFound('container', id);
    return state;
  }
}

/** One call at a time, and of what comes meanwhile only the last: a window that is dragged has a hundred sizes. A failed one is over; the next will tell. */
function latestOnly<T>(work: (value: T) => Promise<void>): (value: T) => void {
  let next: { value: T } | undefined;
  let isRunning = false;
  const run = async (): Promise<void> => {
    isRunning = true;
    for (let current = next; current; current = next) {
      next = undefined;
      await work(current.value).catch(() => undefined);
    }
    isRunning = false;
  };
  return (value) => {
    next = { value };
    if (!isRunning) void run();
  };
}

/** Fails (failedPrecondition) when the runtime's or conmon's program is not there. Makes `stateDir`. */
export function createOciRuntime(options: OciRuntimeOptions): OciRuntime {
  return new ConmonRuntime(options);
}
