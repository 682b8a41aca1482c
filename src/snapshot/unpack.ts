import { closeSync, constants, openSync } from 'node:fs';
import { Worker } from 'node:worker_threads';
import type { Digest } from '../base/digest.ts';
import type { ErrorKind } from '../base/errors.ts';
import { ClassifiedError } from '../base/errors.ts';
import type { Op } from '../base/op.ts';
import { throwIfOver } from '../base/op.ts';
import type { Child } from '../os/spawn.ts';
import { pipe, spawn } from '../os/spawn.ts';
import { StderrTail } from './stderr-tail.ts';
import type { LayerSource } from './snapshotter.ts';
import type { LayerChanges } from './tar/layer-filter.ts';
import type { Compression, Tools } from './tools.ts';
import { extractArgv, inflateArgv } from './tools.ts';
import { applyWhiteouts } from './whiteouts.ts';

/** To the worker: it reads `inputFd` and writes the canonical tar to `tarFd`; both stay the starter's to close. */
export interface UnpackJob {
  readonly inputFd: number;
  readonly tarFd: number;
  /** What is left for the worker to inflate. */
  readonly inflate: Compression;
}

export type UnpackReply =
  | { readonly diffId: Digest; readonly changes: LayerChanges }
  | { readonly error: string; readonly kind: ErrorKind; readonly tarIsGone: boolean };

/** By media type (OCI image-spec, "Layer media types"; Docker's schema 2 gzip layers). invalidArgument for others. */
export function compressionOf(mediaType: string): Compression {
  if (/[+.]gzip$/.test(mediaType)) return 'gzip';
  if (/[+.]zstd$/.test(mediaType)) return 'zstd';
  if (/[.]tar$/.test(mediaType)) return 'none';
  throw new ClassifiedError('invalidArgument', `unpack layer: media type ${JSON.stringify(mediaType.slice(0, 100))} is not a layer's`);
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
  const compression = compressionOf(layer.mediaType);
  const children: Child[] = [];
  const kill = (): void => children.forEach((child) => child.kill(SIGKILL));
  using fds = new DisposableStack();
  const own = (fd: number): number => fds.adopt(fd, closeSync);
  // A child's end of a pipe is closed here as soon as the child has it: only so does the other side learn that the child ended.
  using childFds = new DisposableStack();
  const lend = (fd: number): number => childFds.adopt(fd, closeSync);

  const blob = own(openSync(layer.blobPath, constants.O_RDONLY));
  const inflater = inflateArgv(tools, compression);
  const start = (argv: readonly string[], streams: { stdin: number; stdout?: number }): { child: Child; stderr: StderrTail } => {
    const { read, write } = pipe();
    const stderr = new StderrTail(read);
    const child = spawn({ argv, env: { PATH: tools.path, LC_ALL: 'C.UTF-8' }, stderr: lend(write), ...streams });
    children.push(child);
    return { child, stderr };
  };
  try {
    let inputFd = blob;
    let inflating: ReturnType<typeof start> | undefined;
    if (inflater !== undefined) {
      const plain = pipe();
      inputFd = own(plain.read);
      inflating = start(inflater, { stdin: blob, stdout: lend(plain.write) });
    }
    const { read: tarStdin, write: tarFd } = pipe();
    using tarEnd = new DisposableStack();
    tarEnd.adopt(tarFd, closeSync);
    lend(tarStdin);
    const tar = start(extractArgv(tools, fsDir), { stdin: tarStdin });
    childFds.dispose();
    op.signal.addEventListener('abort', kill, { once: true });
    if (op.signal.aborted) kill();

    const reply = await inWorker({ inputFd, tarFd, inflate: inflater === undefined ? compression : 'none' });
    if ('error' in reply) kill();
    tarEnd.dispose();
    const tarStatus = await tar.child.exited;
    const inflateStatus = await inflating?.child.exited;
    throwIfOver(op);
    if ('error' in reply && !reply.tarIsGone) throw new ClassifiedError(reply.kind, reply.error);
    if (tarStatus.exitCode !== 0) throw extractError(await tar.stderr.text());
    if (inflating !== undefined && inflateStatus?.exitCode !== 0)
      throw new ClassifiedError('dataLoss', `inflate layer ${layer.diffId}: ${await inflating.stderr.text()}`);
    if ('error' in reply) throw new ClassifiedError('internal', reply.error);
    if (reply.diffId !== layer.diffId)
      throw new ClassifiedError('dataLoss', `unpack layer ${layer.diffId}: its content is ${reply.diffId}`);
    return reply.changes;
  } finally {
    op.signal.removeEventListener('abort', kill);
    kill();
    await Promise.all(children.map((child) => child.exited));
  }
}

function extractError(words: string): ClassifiedError {
  const full = /No space left|Disk quota exceeded/i.test(words);
  return new ClassifiedError(full ? 'resourceExhausted' : 'failedPrecondition', `unpack layer: ${words}`);
}

async function inWorker(job: UnpackJob): Promise<UnpackReply> {
  const extension = import.meta.url.endsWith('.ts') ? 'ts' : 'js';
  const worker = new Worker(new URL(`./unpack-worker.${extension}`, import.meta.url), {
    workerData: job,
    resourceLimits: { maxYoungGenerationSizeMb: 4 },
    trackUnmanagedFds: false,
    // Flags for the main script are none of its business.
    execArgv: [],
  });
  const { promise, resolve } = Promise.withResolvers<UnpackReply>();
  const failed = (error: string): void => resolve({ error, kind: 'internal', tarIsGone: false });
  worker.once('message', resolve);
  worker.once('error', (error) => failed(error instanceof Error ? error.message : String(error)));
  const ended = new Promise((done) => worker.once('exit', done));
  void ended.then(() => failed('the unpacking thread ended'));
  const reply = await promise;
  // Its descriptors are closed by us: not before it is gone.
  await ended;
  return reply;
}
