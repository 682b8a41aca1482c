import { closeSync, statfsSync } from 'node:fs';
import type { Digest } from '../base/digest.ts';
import { ClassifiedError } from '../base/errors.ts';
import type { Op } from '../base/op.ts';
import { throwIfOver } from '../base/op.ts';
import type { Child } from '../os/spawn.ts';
import { pipe, spawn } from '../os/spawn.ts';
import type { LayerJobError } from './layer-thread.ts';
import { runLayerJob } from './layer-thread.ts';
import type { PlainSource } from './plain-input.ts';
import { PlainInput } from './plain-input.ts';
import type { LayerSource } from './snapshotter.ts';
import { StderrTail } from './stderr-tail.ts';
import type { LayerChanges } from './tar/layer-filter.ts';
import type { Tools } from './tools.ts';
import { extractArgv } from './tools.ts';
import { applyWhiteouts } from './whiteouts.ts';

/** To the worker: it reads `input` and writes the canonical tar to `tarFd`, which stays the starter's to close. */
export interface UnpackJob {
  readonly input: PlainSource;
  readonly tarFd: number;
}

export type UnpackReply = Unpacked | LayerJobError;

interface Unpacked {
  readonly diffId: Digest;
  readonly changes: LayerChanges;
}

const SIGKILL = 9;

/**
 * Unpacks one layer into the empty directory `fsDir`, in one pass: a thread of its own hashes and checks the plain tar and hands a canonical one to a tar
 * program; whiteouts become overlayfs's after that. dataLoss when it is damaged or not `diffId`; resourceExhausted beyond LAYER_LIMITS or on a
 * full disk; failedPrecondition when it holds what no layer may. The caller removes what a failure leaves in `fsDir`.
 */
export async function unpackLayer(
  op: Op,
  layer: LayerSource,
  fsDir: string,
  options: { tools: Tools; isBottom: boolean },
): Promise<LayerChanges> {
  const changes = await extract(op, layer, fsDir, options.tools);
  await applyWhiteouts(op, fsDir, { ...changes, isBottom: options.isBottom });
  return changes;
}

async function extract(op: Op, layer: LayerSource, fsDir: string, tools: Tools): Promise<LayerChanges> {
  throwIfOver(op);
  let child: Child | undefined;
  using input = await PlainInput.open(layer);
  throwIfOver(op);
  const kill = (): void => child?.kill(SIGKILL);
  try {
    const { read: tarStdin, write: tarFd } = pipe();
    using tarEnd = new DisposableStack();
    tarEnd.adopt(tarFd, closeSync);
    // The child's ends are closed here as soon as it has them: only so does the other side learn that it ended.
    using childFds = new DisposableStack();
    childFds.adopt(tarStdin, closeSync);
    const words = pipe();
    const stderr = new StderrTail(words.read);
    childFds.adopt(words.write, closeSync);
    child = spawn({ argv: extractArgv(tools, fsDir), env: { PATH: tools.path, LC_ALL: 'C.UTF-8' }, stdin: tarStdin, stderr: words.write });
    childFds.dispose();
    op.signal.addEventListener('abort', kill, { once: true });
    if (op.signal.aborted) kill();

    const job: UnpackJob = { input: input.source, tarFd };
    const reply = await runLayerJob<Unpacked>(op, new URL('./unpack-worker', import.meta.url), { job, transfer: input.transfer });
    if ('error' in reply) kill();
    tarEnd.dispose();
    const { exitCode } = await child.exited;
    throwIfOver(op);
    if ('error' in reply && reply.tarIsGone !== true) throw new ClassifiedError(reply.kind, reply.error);
    if (exitCode !== 0) throw extractError(await stderr.text(), fsDir);
    if ('error' in reply) throw new ClassifiedError('internal', reply.error);
    if (reply.diffId !== layer.diffId)
      throw new ClassifiedError('dataLoss', `unpack layer ${layer.diffId}: its content is ${reply.diffId}`);
    return reply.changes;
  } finally {
    op.signal.removeEventListener('abort', kill);
    kill();
    await child?.exited;
  }
}

/** A directory that can't be made for want of space is told as one that is missing. */
function extractError(words: string, fsDir: string): ClassifiedError {
  const full = /No space left|Disk quota exceeded/i.test(words) || isAlmostFull(fsDir);
  return new ClassifiedError(full ? 'resourceExhausted' : 'failedPrecondition', `unpack layer: ${words}`);
}

const FULL_BYTES = 64 << 10;

function isAlmostFull(dir: string): boolean {
  const { bavail, bsize, files, ffree } = statfsSync(dir);
  return bavail * bsize < FULL_BYTES || (files > 0 && ffree === 0);
}
