import { join } from 'node:path';
import type { Duplex } from 'node:stream';
import { ClassifiedError, wrap } from '../base/errors.ts';
import type { Op } from '../base/op.ts';
import { connectToLoopback } from '../os/loopback.ts';
import type { SandboxDeps } from './deps.ts';
import { findPodSandbox } from './list.ts';
import { podPaths } from './paths.ts';
import type { PodSandboxRecord } from './record.ts';
import { usesHostNetwork } from './record.ts';

/** notFound, or failedPrecondition unless the sandbox is ready: `doing` begins the message. */
export function readyPodSandbox(deps: Pick<SandboxDeps, 'store'>, id: string, doing: string): PodSandboxRecord {
  const record = findPodSandbox(deps, id);
  if (record.state !== 'ready') throw new ClassifiedError('failedPrecondition', `${doing} pod sandbox ${record.id}: it is not ready`);
  return record;
}

/** A connection to a port of the pod's loopback, made from inside its network namespace without a helper process. unavailable when nobody listens there. */
export async function connectToPod(deps: Pick<SandboxDeps, 'store' | 'stateDir'>, op: Op, id: string, port: number): Promise<Duplex> {
  const record = readyPodSandbox(deps, id, `forward port ${port} of`);
  const netns = usesHostNetwork(record.config) ? undefined : join(podPaths(deps.stateDir, record.id).namespaces, 'net');
  try {
    return await connectToLoopback(op, netns, port);
  } catch (error) {
    throw wrap(`forward port ${port} of pod sandbox ${record.id}`, error);
  }
}
