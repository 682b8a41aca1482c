import { join } from 'node:path';
import type { Duplex } from 'node:stream';
import { ClassifiedError, wrap } from '../base/errors.ts';
import type { Op } from '../base/op.ts';
import { connectToLoopback } from '../os/loopback.ts';
import type { SandboxDeps } from './deps.ts';
import { findPodSandbox } from './list.ts';
import { podPaths } from './paths.ts';
import { usesHostNetwork } from './record.ts';

/** A connection to a port of the pod's loopback, made from inside its network namespace without a helper process. unavailable when nobody listens there. */
export async function connectToPod(deps: Pick<SandboxDeps, 'store' | 'stateDir'>, op: Op, id: string, port: number): Promise<Duplex> {
  const record = findPodSandbox(deps, id);
  const doing = `forward port ${port} of pod sandbox ${record.id}`;
  if (record.state !== 'ready') throw new ClassifiedError('failedPrecondition', `${doing}: it is not ready`);
  const netns = usesHostNetwork(record.config) ? undefined : join(podPaths(deps.stateDir, record.id).namespaces, 'net');
  try {
    return await connectToLoopback(op, netns, port);
  } catch (error) {
    throw wrap(doing, error);
  }
}
