import { readSync } from 'node:fs';
import { parentPort, receiveMessageOnPort, workerData } from 'node:worker_threads';
import { errnoOf } from '../base/errors.ts';
import { endJobs, isHome, runJob } from './namespace-jobs.ts';
import type { NamespacesJob } from './namespace-jobs.ts';
import type { ReactorMessage, ReactorThread } from './reactor.ts';
import { epollWait } from './syscalls.ts';

/** Whatever is asked of this thread wakes it. A process that ends without an `exit` event waits for it this long at most. */
const TICK_MS = 5_000;

const { epfd, wakeFd, stop } = workerData as ReactorThread;
const port = parentPort!;
const tell = (message: ReactorMessage): void => port.postMessage(message);
const counter = Buffer.alloc(8);

function takeWake(): void {
  try {
    readSync(wakeFd, counter);
  } catch (error) {
    // The other has.
    if (errnoOf(error) !== 'EAGAIN') throw error;
  }
}

function runJobs(): void {
  for (let next = receiveMessageOnPort(port); next !== undefined; next = receiveMessageOnPort(port)) {
    const result = runJob(next.message as NamespacesJob);
    tell({ result });
    // A thread that could not go back would make the next pod in this pod's namespaces.
    if (result.error === undefined || isHome()) continue;
    endJobs();
    process.exit(1);
  }
}

// What loading the modules left is 1.4 MiB, and this thread makes too little garbage ever to be rid of it. Only with --expose-gc.
globalThis.gc?.({ type: 'major', flavor: 'last-resort', execution: 'sync' });

while (Atomics.load(stop, 0) === 0) {
  const tokens = epollWait(epfd, TICK_MS);
  const ready = tokens.filter((token) => token !== 0);
  if (ready.length > 0) tell({ ready });
  // What ends one of two wakes the other too.
  if (ready.length === tokens.length || Atomics.load(stop, 0) !== 0) continue;
  takeWake();
  runJobs();
}
endJobs();
