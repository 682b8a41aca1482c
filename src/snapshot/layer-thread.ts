import { Worker } from 'node:worker_threads';

/** A thread for one job: how it ends. Descriptors of the job are the starter's to close, but not before `ended`. */
export interface LayerThread<Reply> {
  /** Its one message; undefined when it ended without. Rejects with what it threw. */
  readonly reply: Promise<Reply | undefined>;
  readonly ended: Promise<void>;
  stop(): void;
}

/** `script`: the worker's module, without extension. */
export function startLayerThread<Reply>(script: URL, workerData: unknown): LayerThread<Reply> {
  const worker = new Worker(new URL(`${script.href}.${import.meta.url.endsWith('.ts') ? 'ts' : 'js'}`), {
    workerData,
    resourceLimits: { maxYoungGenerationSizeMb: 4 },
    trackUnmanagedFds: false,
    // Flags for the main script are none of its business.
    execArgv: [],
  });
  const { promise, resolve, reject } = Promise.withResolvers<Reply | undefined>();
  promise.catch(() => undefined);
  worker.once('message', resolve);
  worker.once('error', reject);
  const ended = new Promise<void>((done) => worker.once('exit', () => done()));
  void ended.then(() => resolve(undefined));
  return { reply: promise, ended, stop: () => void worker.terminate() };
}
