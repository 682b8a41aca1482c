import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { isDeepStrictEqual } from 'node:util';
import { allDone } from '../base/all-done.ts';
import { ClassifiedError, notFound } from '../base/errors.ts';
import { newId, nowNs } from '../base/ids.ts';
import type { Op } from '../base/op.ts';
import { Rollback } from '../base/rollback.ts';
import type { ContainerConfig__Output } from '../gen/cri/runtime/v1/ContainerConfig.ts';
import type { Image } from '../image/image.ts';
import { expectCgroupMoves } from '../os/cgroup-moves.ts';
import { cgroupOf } from '../os/cgroup.ts';
import type { PodSandboxRecord } from '../sandbox/record.ts';
import { resolveCdi } from './cdi/devices.ts';
import type { ContainerDeps } from './deps.ts';
import { prepareLog } from './log.ts';
import { imageVolumesOf, mountImageVolumes } from './image-volumes.ts';
import { resolveMounts } from './mounts.ts';
import { buildSpec } from './oci-spec/spec.ts';
import type { ContainerRecord } from './record.ts';
import { containerKey, containerPaths, moved } from './record.ts';
import { makeVolumeDirs, mountRootfs } from './rootfs.ts';
import { containerLabels } from './selinux.ts';
import { specInput } from './spec-input.ts';
import { parseSignal } from './signal.ts';
import { undoCreate } from './teardown.ts';
import { userOf } from './user.ts';
import { checkMapped, checkUserNamespace, podIdmap, podRoot } from './user-namespace.ts';
import { watchExit } from './exit.ts';

/** Until the runtime has moved its init into the container's cgroup. */
const JOIN_MS = 40;

/**
 * CRI CreateContainer. A retry with the same pod, name and attempt joins the create in flight or collects its result, and gets the same
 * container again while that is `created`. notFound: sandbox or image; failedPrecondition: the sandbox is not ready;
 * alreadyExists: the same attempt with another config.
 */
export async function createContainer(deps: ContainerDeps, op: Op, sandboxId: string, config: ContainerConfig__Output): Promise<string> {
  const sandbox = readySandbox(deps, sandboxId);
  const key = containerKey(sandbox.id, config);
  const existing = deps.store
    .values()
    .find((record) => record.state !== 'creating' && containerKey(record.sandboxId, record.config) === key);
  if (existing) {
    if (existing.state === 'created' && isDeepStrictEqual(existing.config, config)) return existing.id;
    throw conflict(existing.id);
  }
  const record = await deps.operations.run(op, key, {
    start: (own) => create(deps, own, sandbox, config),
    collect: async (made) => {
      // Its pod was removed before anybody came for it.
      if (deps.store.get(made.id) === undefined) throw notFound('container', made.id);
      // Or stopped, and what is not visible yet was not ended with it (R33).
      readySandbox(deps, made.sandboxId);
      const created = moved(made, 'created');
      await deps.store.put(created);
      watchExit(deps, created);
      deps.emit('created', created);
    },
    abandon: (own, made) => undoCreate(deps, own, made),
  });
  if (!isDeepStrictEqual(record.config, config)) throw conflict(record.id);
  return record.id;
}

async function create(deps: ContainerDeps, op: Op, sandbox: PodSandboxRecord, config: ContainerConfig__Output): Promise<ContainerRecord> {
  expectCgroupMoves(JOIN_MS);
  checkUserNamespace(sandbox, config);
  const image = imageOf(deps, config);
  const runtime = deps.handler(sandbox.runtimeHandler);
  const idmap = podIdmap(deps.stateDir, sandbox);
  // Before anything is made: a device that is missing is known now.
  const cdi = await resolveCdi(deps.cdi, op, config);
  const selinux = containerLabels(sandbox, config);
  let record = newRecord(deps, { sandbox, config, image });
  const paths = containerPaths(deps.stateDir, record.id);

  op.span.stage('record');
  await using rollback = new Rollback(op);
  rollback.add(`tear down container ${record.id}`, (undo) => undoCreate(deps, undo, record));
  await deps.store.put(record);

  op.span.stage('snapshot');
  const [mounts] = await allDone([
    mountImageVolumes(deps, op, record, { idmap, mountLabel: selinux?.mount }).then((imageSources) =>
      resolveMounts(op, config.mounts, { imageSources, mountLabel: selinux?.mount }),
    ),
    mountRootfs(deps.snapshotter, op, paths, { key: record.id, topLayer: image.topLayer, idmap, mountLabel: selinux?.mount }),
  ]);

  op.span.stage('spec');
  makeVolumeDirs(op, paths.rootfs, image.config.volumes, podRoot(idmap));
  record = { ...record, user: userOf(paths.rootfs, config, image.config) };
  checkMapped(record.user, idmap);
  const spec = buildSpec(await specInput(deps, op, { record, sandbox, image, mounts, cdi, selinux }));
  writeFileSync(join(paths.bundle, 'config.json'), JSON.stringify(spec), { mode: 0o600 });
  if (record.logPath !== '') await prepareLog(sandbox.config.logDirectory, config.logPath);

  op.span.stage('runtime create');
  const process = await runtime.create(op, {
    id: record.id,
    bundle: paths.bundle,
    io: { logPath: record.logPath || undefined, tty: config.tty, stdin: config.stdin, stdinOnce: config.stdinOnce },
    cgroupParent: sandbox.cgroupParent,
  });
  record = { ...record, process, cgroupPath: cgroupOf(process.init.pid) ?? '' };
  readySandbox(deps, sandbox.id);
  await deps.store.put(record);

  op.span.stage('uncollected');
  rollback.commit();
  return record;
}

function newRecord(
  deps: ContainerDeps,
  from: { sandbox: PodSandboxRecord; config: ContainerConfig__Output; image: Image },
): ContainerRecord {
  const { sandbox, config, image } = from;
  const logDirectory = sandbox.config.logDirectory;
  const signal = config.stopSignal === 'RUNTIME_DEFAULT' ? image.config.stopSignal : config.stopSignal;
  return {
    version: 1,
    id: newId(),
    sandboxId: sandbox.id,
    state: 'creating',
    config,
    imageId: image.id,
    imageRef: image.repoDigests[0] ?? image.id,
    imageVolumes: imageVolumesOf(deps.images, config),
    runtimeHandler: sandbox.runtimeHandler,
    bootId: deps.bootId,
    cgroupPath: '',
    logPath: config.logPath === '' || logDirectory === '' ? '' : join(logDirectory, config.logPath),
    stopSignal: parseSignal(signal) ?? 15,
    user: { uid: 0, gid: 0, additionalGids: [] },
    resources: config.linux?.resources ?? null,
    createdAtNs: String(nowNs()),
    startedAtNs: '0',
  };
}

function readySandbox(deps: ContainerDeps, id: string): PodSandboxRecord {
  const sandbox = deps.sandbox(id);
  if (sandbox.state !== 'ready')
    throw new ClassifiedError('failedPrecondition', `create container: pod sandbox ${sandbox.id} is not ready`);
  return sandbox;
}

function imageOf(deps: ContainerDeps, config: ContainerConfig__Output): Image {
  const ref = config.image?.image ?? '';
  const image = deps.images.find(ref);
  if (image === undefined) throw notFound('image', ref);
  return image;
}

const conflict = (id: string): ClassifiedError =>
  new ClassifiedError('alreadyExists', `config.metadata: this attempt of the container is ${id} already`);
