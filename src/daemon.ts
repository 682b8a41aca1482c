import { mkdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { messageOf, wrap } from './base/errors.ts';
import { KeyedLock } from './base/keyed-lock.ts';
import { LastingWork } from './base/lasting-work.ts';
import type { Logger } from './base/log.ts';
import { Operations } from './base/operations.ts';
import type { Op } from './base/op.ts';
import { newOp } from './base/op.ts';
import { TaskSet } from './base/task-set.ts';
import type { Config } from './config/config.ts';
import { attach } from './container/attach.ts';
import { AppArmor } from './container/apparmor.ts';
import { CdiRegistry } from './container/cdi/registry.ts';
import type { ContainerDeps } from './container/deps.ts';
import { exec } from './container/exec.ts';
import { daemonFacts } from './container/facts.ts';
import { createPauseProcess } from './container/pause.ts';
import { createPodContainers } from './container/pod-containers.ts';
import type { ContainerRecord } from './container/record.ts';
import { recoverContainers, removeLostSnapshots } from './container/recover.ts';
import { createLocalContent } from './content/local.ts';
import { weightOf } from './cri/chunks.ts';
import { createCriServer } from './cri/server.ts';
import { gantryService } from './cri/gantry-service.ts';
import type { ServiceDeps } from './cri/deps.ts';
import type { CallSeen } from './cri/unary.ts';
import { imageService } from './cri/image-service.ts';
import { runtimeService } from './cri/runtime-service.ts';
import { publisher } from './cri/view/event.ts';
import { Bus } from './events/bus.ts';
import type { ContainerEventResponse } from './gen/cri/runtime/v1/ContainerEventResponse.ts';
import { createImages } from './image/images.ts';
import { createNetwork } from './network/network.ts';
import { cgroupMode } from './os/cgroup.ts';
import { CutMark } from './os/cut-mark.ts';
import { lockFile } from './os/file-lock.ts';
import { sdNotify } from './os/notify.ts';
import { startReactor, stopReactor } from './os/reactor.ts';
import { selinuxDefaults } from './os/selinux.ts';
import { RecordStore } from './os/record-store.ts';
import { returnSpareMemory } from './os/spare-memory.ts';
import { createHandlers } from './runtime/handlers.ts';
import type { SandboxDeps } from './sandbox/deps.ts';
import { findPodSandbox } from './sandbox/list.ts';
import { WarmPool } from './sandbox/pool.ts';
import { connectToPod } from './sandbox/port-forward.ts';
import type { PodSandboxRecord } from './sandbox/record.ts';
import { recoverPodSandboxes } from './sandbox/recover.ts';
import { createSnapshotter } from './snapshot/choose.ts';
import { LayerUsages } from './stats/layer-usage.ts';
import { createSampler } from './stats/sampler.ts';
import { createStreamingServer } from './streaming/server.ts';
import type { StreamRuntime } from './streaming/stream-runtime.ts';

/** A serving daemon. `close` stops answering and makes everything durable; containers go on running. */
export interface Daemon {
  close(): Promise<void>;
}

/** Builds the rooms in order, recovers what an earlier daemon left, and only then listens. Throws when another instance holds the root or the state directory. */
export async function serve(config: Config, log: Logger): Promise<Daemon> {
  await using stack = new AsyncDisposableStack();
  await makeDirectories(config);
  for (const dir of [config.state, config.root]) stack.use(onlyInstance(dir));
  await startReactor();
  stack.defer(stopReactor);
  stack.use(returnSpareMemory());

  const bootId = (await readFile('/proc/sys/kernel/random/boot_id', 'utf8')).trim();
  const tasks = new TaskSet(log);
  const { snapshotter, facts: snapshotterFacts } = await createSnapshotter(config.image.snapshotter, {
    root: join(config.root, 'snapshots'),
    log,
  });
  const content = await createLocalContent(join(config.root, 'content'));
  const mark = new CutMark(join(config.root, 'running'), bootId);
  stack.defer(() => mark.clear());
  const verified = (): Promise<void> =>
    // A disk too full for it is no reason not to start (R11).
    mark.set().catch((error: unknown) => log.warn({ err: messageOf(error) }, 'a cut of the power would not be noticed'));
  const images = await createImages({ config, content, snapshotter, log, wasCut: await mark.wasCut(), verified });
  stack.defer(() => images.close());
  const network = await createNetwork({ config: config.cni, stateDir: config.state, log });
  stack.defer(() => network.close());
  const handlers = await createHandlers(config, log, snapshotter);
  const sampler = createSampler();
  const bus = new Bus<ContainerEventResponse>({ sizeOf: weightOf });

  const shared = {
    stateDir: config.state,
    bootId,
    cgroupMode: cgroupMode(),
    systemdCgroup: config.cgroup.driver === 'systemd',
    log,
    tasks,
    handler: handlers.get,
  };
  const containerStore = new RecordStore<ContainerRecord>(join(config.root, 'containers'), log);
  const sandboxStore = new RecordStore<PodSandboxRecord>(join(config.root, 'sandboxes'), log);
  stack.defer(() => containerStore.close());
  stack.defer(() => sandboxStore.close());
  const patience = { minPatienceMs: config.operation.patienceMs };
  const tell = publisher(bus, { sandboxes: sandboxStore, containers: containerStore });

  const facts = await daemonFacts();
  const selinux = await selinuxDefaults();
  if (facts.selinux && selinux === undefined)
    log.warn('SELinux is on, but its policy has no labels for containers (contexts/lxc_contexts): nothing is labelled');
  const containers: ContainerDeps = {
    ...shared,
    facts,
    apparmor: new AppArmor({ enabled: facts.apparmor, log }),
    store: containerStore,
    operations: new Operations<ContainerRecord>(patience),
    locks: new KeyedLock(),
    images,
    snapshotter,
    cdi: new CdiRegistry(config.cdi.specDirs),
    sampler,
    handlerOf: handlers.of,
    exits: new Map(),
    starts: new LastingWork(),
    removals: new LastingWork(),
    sandbox: (id) => findPodSandbox(sandboxes, id),
    emit: tell.container,
  };
  const warm = new WarmPool(() => sandboxes, {
    limit: config.sandbox.warm,
    burstLimit: config.sandbox.warmBurst,
    busy: () => sandboxes.operations.working + containers.operations.working + containers.starts.size,
  });
  const sandboxes: SandboxDeps = {
    ...shared,
    store: sandboxStore,
    operations: new Operations<PodSandboxRecord>(patience),
    endings: new LastingWork(),
    locks: new KeyedLock(),
    network,
    warm,
    selinux,
    containers: createPodContainers(containers),
    pause: createPauseProcess(containers, config.image.pauseImage),
    emit: (type, record) => {
      if (type === 'deleted') sampler.unregister(record.id);
      tell.sandbox(type, record);
    },
  };

  await recoverContainers(containers);
  await recoverPodSandboxes(sandboxes);
  await removeLostSnapshots(containers, (id) => sandboxStore.get(id) !== undefined);
  // Before the first call: a pod that is made meanwhile would be none of the valid ones.
  await network
    .gc(
      newOp('gc', { log, timeoutMs: NETWORK_GC_TIMEOUT_MS }),
      sandboxStore.values().map(({ id }) => id),
    )
    .catch((error: unknown) => log.warn({ err: messageOf(error) }, 'stale network attachments were not released'));

  const { address, port, tls } = config.streaming;
  const runtime = streamRuntime(containers, sandboxes, log);
  const streams = await createStreamingServer({ runtime, address, port, log, ...(tls === undefined ? {} : { tls }) });
  stack.defer(() => streams.close());
  if (tls === undefined && !LOOPBACK.test(address))
    log.warn({ address }, 'what people type into exec and attach goes over the network in the clear: set streaming.tls_cert');

  const services = {
    sandboxes,
    containers,
    images,
    events: bus,
    streams,
    stats: { sampler, snapshotter, layers: new LayerUsages(snapshotter), stateDir: config.state },
    status: {
      network,
      handlers: handlers.list(),
      cgroupDriver: config.cgroup.driver === 'systemd' ? ('SYSTEMD' as const) : ('CGROUPFS' as const),
      info: { config, cgroups: shared.cgroupMode, snapshotter: snapshotterFacts },
      inFlight: () => ({ runPodSandbox: sandboxes.operations.list(), createContainer: containers.operations.list() }),
      warm: () => warm.status(),
      events: bus,
    },
  };
  const metrics = config.metrics.port === 0 ? undefined : await startMetrics(config, log, { ...services, warm });
  if (metrics) stack.use(metrics.server);
  const server = await createCriServer({
    runtime: runtimeService(services),
    image: imageService(services),
    gantry: gantryService(services),
    log,
    ...(metrics ? { observe: (call) => metrics.observe(call) } : {}),
  });
  await server.listen(config.socket);
  warm.start();
  stack.defer(() => tasks.drain());
  stack.defer(() => warm.close());
  stack.defer(() => server.close(SERVER_GRACE_MS));
  // Streams of events have no end of their own.
  stack.defer(() => bus.close());
  log.info({ socket: config.socket, root: config.root, state: config.state }, 'serving the CRI');
  sdNotify('READY=1');
  stack.defer(() => void sdNotify('STOPPING=1'));
  const held = stack.move();
  return { close: () => held.disposeAsync() };
}

/** What clients of the streaming server are connected to. */
function streamRuntime(containers: ContainerDeps, sandboxes: SandboxDeps, log: Logger): StreamRuntime {
  const opOf = (name: string, signal: AbortSignal): Op => newOp(name, { log: log.child({ rpc: name }), signal });
  return {
    exec: (signal, { containerId, command, tty }, streams) =>
      exec(containers, opOf('Exec', signal), containerId, { command, tty, streams }),
    attach: (signal, { containerId }, streams) => attach(containers, opOf('Attach', signal), containerId, streams),
    connect: (signal, podSandboxId, port) => connectToPod(sandboxes, opOf('PortForward', signal), podSandboxId, port),
  };
}

const LOOPBACK = /^(127\.|::1$)/;
const SERVER_GRACE_MS = 5_000;
const NETWORK_GC_TIMEOUT_MS = 15_000;

/** Two daemons over the same records or sockets would undo each other's pods. */
function onlyInstance(dir: string): Disposable {
  try {
    return lockFile(join(dir, 'gantry.lock'));
  } catch (error) {
    throw wrap(`another gantry serves from ${dir}`, error);
  }
}

/** Loaded only when it is asked for: it would cost memory in every other daemon. */
async function startMetrics(
  config: Config,
  log: Logger,
  { sandboxes, containers, images, events, warm }: ServiceDeps & { warm: WarmPool },
) {
  const { Metrics } = await import('./metrics/metrics.ts');
  const metrics = new Metrics({
    inFlight: () => [...sandboxes.operations.list(), ...containers.operations.list()],
    podStates: () => sandboxes.store.values().flatMap(({ state }) => (state === 'warm' ? [] : [state])),
    containerStates: () => containers.store.values().map(({ state }) => state),
    warm: () => warm.status(),
    pulls: () => images.pulls(),
    droppedEvents: () => events.dropped,
  });
  const { address, port } = config.metrics;
  const server = await metrics.serve(address, port);
  log.info({ address, port: server.port }, 'serving metrics');
  return { server, observe: (call: CallSeen) => metrics.observe(call) };
}

async function makeDirectories(config: Config): Promise<void> {
  for (const dir of [
    config.root,
    join(config.root, 'sandboxes'),
    join(config.root, 'containers'),
    join(config.root, 'content'),
    join(config.root, 'snapshots'),
  ]) {
    await mkdir(dir, { recursive: true, mode: 0o700 });
  }
  for (const dir of [config.state, join(config.state, 'pods'), join(config.state, 'containers')])
    await mkdir(dir, { recursive: true, mode: 0o711 });
}
