import { constants } from 'node:os';
import type { Container } from '../../gen/cri/runtime/v1/Container.ts';
import type { ContainerStatus } from '../../gen/cri/runtime/v1/ContainerStatus.ts';
import type { Mount } from '../../gen/cri/runtime/v1/Mount.ts';
import type { Signal } from '../../gen/cri/runtime/v1/Signal.ts';
import { Signal as Signals } from '../../gen/cri/runtime/v1/Signal.ts';
import { criState } from '../../container/list.ts';
import type { ContainerRecord } from '../../container/record.ts';

/** Record -> CRI Container, the short form of lists. */
export function containerView(record: ContainerRecord): Container {
  const { config } = record;
  return {
    id: record.id,
    podSandboxId: record.sandboxId,
    metadata: config.metadata,
    // Clients read on without looking: one whose record could not be read has an image without a name.
    image: config.image ?? { image: '' },
    imageRef: record.imageRef,
    imageId: record.imageId,
    state: criState(record),
    createdAt: record.createdAtNs,
    labels: config.labels,
    annotations: config.annotations,
  };
}

const SIGNAL_NAMES: ReadonlyMap<number, string> = new Map(Object.entries(constants.signals).map(([name, number]) => [number, name]));

/** Record -> CRI ContainerStatus. */
export function containerStatusView(record: ContainerRecord): ContainerStatus {
  const { config, exit, user } = record;
  return {
    id: record.id,
    metadata: config.metadata,
    state: criState(record),
    createdAt: record.createdAtNs,
    startedAt: record.startedAtNs,
    finishedAt: exit?.finishedAtNs ?? '0',
    exitCode: exit?.exitCode ?? 0,
    reason: exit?.reason ?? '',
    message: exit?.message ?? record.failedSteps?.join('; ') ?? '',
    image: config.image ?? { image: '' },
    imageRef: record.imageRef,
    imageId: record.imageId,
    labels: config.labels,
    annotations: config.annotations,
    mounts: mountsView(record),
    logPath: record.logPath,
    resources: record.resources === null ? null : { linux: record.resources },
    user: { linux: { uid: user.uid, gid: user.gid, supplementalGroups: [...user.additionalGids] } },
    stopSignal: stopSignalName(record.stopSignal),
  };
}

/** As asked for; an image volume also says which image it is, in the words of PullImage (KEP-5365). */
function mountsView({ config, imageVolumes = [] }: ContainerRecord): Mount[] {
  const ids = new Map(imageVolumes.map(({ index, imageId }) => [index, imageId]));
  return config.mounts.map((mount, index): Mount => {
    const imageRef = ids.get(index);
    return imageRef === undefined ? mount : { ...mount, image: { ...mount.image, imageRef } };
  });
}

/** The CRI's enum spells real-time signals out (`SIGRTMINPLUS1`); signals it has no name for are left to the default. */
function stopSignalName(number: number): Signal {
  const RTMIN = 34;
  const RTMAX = 64;
  const name =
    SIGNAL_NAMES.get(number) ??
    (number === RTMIN
      ? 'SIGRTMIN'
      : number === RTMAX
        ? 'SIGRTMAX'
        : number <= RTMIN + 15
          ? `SIGRTMINPLUS${number - RTMIN}`
          : `SIGRTMAXMINUS${RTMAX - number}`);
  return name in Signals ? (name as Signal) : 'RUNTIME_DEFAULT';
}
