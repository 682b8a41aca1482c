import { isDeepStrictEqual } from 'node:util';
import { ClassifiedError, invalidArgument } from '../base/errors.ts';
import { newId, nowNs } from '../base/ids.ts';
import type { Op } from '../base/op.ts';
import { Rollback } from '../base/rollback.ts';
import type { PodSandboxConfig__Output } from '../gen/cri/runtime/v1/PodSandboxConfig.ts';
import { expectCgroupMoves } from '../os/cgroup-moves.ts';
import { adjustNamespaces, createNamespaces } from '../os/namespaces.ts';
import type { SandboxDeps } from './deps.ts';
import { createPodFiles, podHostname } from './files.ts';
import { watchPause } from './lost.ts';
import { podPaths } from './paths.ts';
import type { PodSandboxRecord } from './record.ts';
import { moved, needsPause, networkRequest, pinnedNamespaces, sandboxKey, userMappings, usesHostNetwork } from './record.ts';
import { createPodCgroup, isOurs } from './resources.ts';
import { podLabels } from './selinux.ts';
import { undoRun } from './teardown.ts';

/** Until the first container of a pod joins its cgroup, where no image has to be pulled. */
const CONTAINER_MS = 60;

/**
 * CRI RunPodSandbox. A retry with the same pod and attempt joins the run in flight or collects its result, and gets the
 * same sandbox again while that is ready. invalidArgument: unknown handler; alreadyExists: the same attempt with another config.
 */
export async function runPodSandbox(deps: SandboxDeps, op: Op, config: PodSandboxConfig__Output, runtimeHandler: string): Promise<string> {
  const runtime = deps.handler(runtimeHandler);
  const key = sandboxKey(config);
  const existing = deps.store.values().find((record) => record.state === 'ready' && sandboxKey(record.config) === key);
  if (existing) return sameAgain(existing, config);
  const record = await deps.operations.run(op, key, {
    start: (own) => create(deps, own, config, runtimeHandler === '' ? '' : runtime.handler),
    collect: async (created) => {
      const ready = moved(created, 'ready');
      await deps.store.put(ready);
      watchPause(deps, ready);
      deps.emit('created', ready);
      deps.emit('started', ready);
    },
    abandon: (own, created) => undoRun(deps, own, created),
  });
  if (!isDeepStrictEqual(record.config, config)) throw conflict(record.id);
  return record.id;
}

const conflict = (id: string): ClassifiedError =>
  new ClassifiedError('alreadyExists', `config.metadata: this attempt of the pod is sandbox ${id} already, with another config`);

function sameAgain(existing: PodSandboxRecord, config: PodSandboxConfig__Output): string {
  if (!isDeepStrictEqual(existing.config, config)) throw conflict(existing.id);
  return existing.id;
}

async function create(deps: SandboxDeps, op: Op, config: PodSandboxConfig__Output, runtimeHandler: string): Promise<PodSandboxRecord> {
  expectCgroupMoves(CONTAINER_MS);
  if (userMappings(config) && !(await deps.handler(runtimeHandler).features()).userNamespaces) {
    const field = 'config.linux.security_context.namespace_options.userns_options';
    throw invalidArgument(field, 'the handler has no user namespaces (see Status, runtime_handlers)');
  }
  op.span.stage('warm sandbox');
  const fresh = (warm?: PodSandboxRecord): PodSandboxRecord => newRecord(deps, config, runtimeHandler, warm);
  let record = (await deps.warm.take(config, fresh)) ?? fresh();
  const isWarm = record.attachment !== undefined;
  const paths = podPaths(deps.stateDir, record.id);
  const save = async (change: Partial<PodSandboxRecord>): Promise<void> => {
    record = { ...record, ...change };
    await deps.store.put(record);
  };

  op.span.stage('record');
  await using rollback = new Rollback(op);
  rollback.add(`tear down sandbox ${record.id}`, (undo) => undoRun(deps, undo, record));
  await save({});

  op.span.stage('files');
  await createPodFiles(record, paths);

  if (record.ownsCgroupParent) {
    op.span.stage('cgroup');
    await createPodCgroup(record);
  }

  op.span.stage('namespaces');
  const kinds = pinnedNamespaces(config);
  const user = userMappings(config);
  if (kinds.length > 0 || user) {
    const hostname = podHostname(record);
    const request = { dir: paths.namespaces, kinds, sysctls: config.linux?.sysctls ?? {}, ...(hostname === '' ? {} : { hostname }) };
    if (isWarm) await adjustNamespaces(request);
    else await createNamespaces({ ...request, ...(user && { user }) });
  }

  if (!usesHostNetwork(config) && !isWarm) {
    op.span.stage('network');
    const conflist = await deps.network.conflist();
    await save({ networkBegun: true, conflist });
    await save({
      attachment: await deps.warm.attach(op, networkRequest(record, `${paths.namespaces}/net`), conflist),
      conflist: undefined,
    });
  }

  if (needsPause(config)) {
    op.span.stage('pause');
    await save({ pause: await deps.pause.start(op, record) });
  }

  op.span.stage('uncollected');
  rollback.commit();
  return record;
}

/** Of a new sandbox, or of the warm one that becomes the pod's, with what that has already. */
function newRecord(
  deps: SandboxDeps,
  config: PodSandboxConfig__Output,
  runtimeHandler: string,
  warm: PodSandboxRecord | undefined,
): PodSandboxRecord {
  const begun = warm && moved(warm, 'creating');
  const id = begun?.id ?? newId();
  const asked = config.linux?.cgroupParent ?? '';
  const cgroupParent = asked !== '' ? asked : deps.systemdCgroup ? 'gantry.slice' : `/gantry/${id}`;
  return {
    version: 1,
    id,
    state: 'creating',
    config,
    runtimeHandler,
    createdAtNs: String(nowNs()),
    bootId: deps.bootId,
    cgroupParent,
    ownsCgroupParent: !deps.systemdCgroup && isOurs(deps.store, cgroupParent),
    networkBegun: begun?.networkBegun ?? false,
    ...(begun?.attachment && { attachment: begun.attachment }),
    ...(deps.selinux === undefined ? {} : { selinux: podLabels({ selinux: deps.selinux, store: deps.store }, config) }),
  };
}
