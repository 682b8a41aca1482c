import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { messageOf, wrap } from '../base/errors.ts';
import type { Op } from '../base/op.ts';
import type { Image } from '../image/image.ts';
import { isAlive } from '../os/process.ts';
import type { CreatedContainer } from '../runtime/runtime.ts';
import type { PauseProcess } from '../sandbox/pause.ts';
import type { PodSandboxRecord } from '../sandbox/record.ts';
import { needsPause } from '../sandbox/record.ts';
import type { ContainerDeps } from './deps.ts';
import { bundleOwner, lostAnnotations } from './lost-record.ts';
import { pauseSpec } from './oci-spec/pause.ts';
import { containerPaths } from './record.ts';
import { mountRootfs, removeRootfs } from './rootfs.ts';
import { cgroupsPathOf, podNamespaces, podUserNamespace } from './spec-input.ts';
import { podIdmap } from './user-namespace.ts';

/**
 * The process that holds a pod-shared PID namespace: the pause image's, built with the same parts as a container but listed nowhere.
 * Its id is the sandbox's own.
 */
export function createPauseProcess(deps: ContainerDeps, pauseImage: string): PauseProcess {
  const watched = new Set<string>();
  return {
    async start(op: Op, sandbox: PodSandboxRecord): Promise<CreatedContainer> {
      const image = await imageOf(deps, op, pauseImage);
      const runtime = deps.handler(sandbox.runtimeHandler);
      const paths = containerPaths(deps.stateDir, sandbox.id);
      await mountRootfs(deps.snapshotter, op, paths, {
        key: sandbox.id,
        topLayer: image.topLayer,
        idmap: podIdmap(deps.stateDir, sandbox),
        mountLabel: sandbox.selinux?.mount,
      });
      const args = [...image.config.entrypoint, ...image.config.cmd];
      const spec = pauseSpec({
        id: sandbox.id,
        args: args.length > 0 ? args : ['/pause'],
        rootfsPath: paths.rootfs,
        namespaces: podNamespaces(deps, sandbox),
        userNamespace: podUserNamespace(deps, sandbox),
        cgroupsPath: cgroupsPathOf(deps, sandbox, sandbox.id),
        annotations: lostAnnotations({ sandboxId: sandbox.id, runtimeHandler: sandbox.runtimeHandler }),
        seccomp: (await runtime.features()).seccomp,
        selinux: sandbox.selinux,
        daemon: deps.facts,
      });
      writeFileSync(join(paths.bundle, 'config.json'), JSON.stringify(spec), { mode: 0o600 });
      const io = { logPath: undefined, tty: false, stdin: false, stdinOnce: false };
      const created = await runtime.create(op, { id: sandbox.id, bundle: paths.bundle, io, cgroupParent: sandbox.cgroupParent });
      await runtime.start(op, sandbox.id);
      return created;
    },

    async remove(op: Op, sandbox: PodSandboxRecord): Promise<void> {
      // None was ever begun. A record that stands for a lost one says nothing of its PID namespace, which is the pod's then.
      if (!needsPause(sandbox.config)) return;
      await deps.handlerOf(sandbox.runtimeHandler).delete(op, sandbox.id);
      await removeRootfs(deps.snapshotter, op, containerPaths(deps.stateDir, sandbox.id), sandbox.id);
    },

    handlerOf: async (id) => (await bundleOwner(deps.stateDir, id)).runtimeHandler,

    isGone: (sandbox) => sandbox.pause !== undefined && !isAlive(sandbox.pause.init),

    watch(sandbox, onExit): void {
      if (sandbox.pause === undefined || watched.has(sandbox.id)) return;
      watched.add(sandbox.id);
      const { pause } = sandbox;
      const exited = (async () => deps.handlerOf(sandbox.runtimeHandler).waitExit(sandbox.id, pause))();
      void exited
        .catch((error: unknown) =>
          deps.log.error({ sandbox: sandbox.id, err: messageOf(error) }, 'the end of a pause process is not known'),
        )
        .then(() => {
          watched.delete(sandbox.id);
          if (!isAlive(pause.init)) onExit();
        });
    },
  };
}

async function imageOf(deps: ContainerDeps, op: Op, ref: string): Promise<Image> {
  const found = deps.images.find(ref);
  if (found) return found;
  try {
    const id = await deps.images.pull(op, ref, undefined);
    const pulled = deps.images.find(id);
    if (pulled) return pulled;
  } catch (error) {
    throw wrap(`pull pause image ${ref} (a pod-shared PID namespace needs it)`, error);
  }
  throw new Error(`pause image ${ref} is not there after its pull`);
}
