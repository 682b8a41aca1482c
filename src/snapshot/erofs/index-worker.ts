import { parentPort, workerData } from 'node:worker_threads';
import { messageOf } from '../../base/errors.ts';
import { streamErrorKind } from '../plain-stream.ts';
import type { IndexJob, IndexReply } from './index-job.ts';
import { indexLayer } from './index-job.ts';

// One thread for as long as one layer is stored and indexed.

async function work(): Promise<IndexReply> {
  try {
    return await indexLayer(workerData as IndexJob);
  } catch (error) {
    return { error: messageOf(error), kind: streamErrorKind(error) };
  }
}

parentPort?.postMessage(await work());
