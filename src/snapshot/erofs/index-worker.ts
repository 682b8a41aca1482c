import { messageOf } from '../../base/errors.ts';
import { doLayerJobs } from '../layer-thread.ts';
import { streamErrorKind } from '../plain-stream.ts';
import type { IndexJob, IndexReply } from './index-job.ts';
import { indexLayer } from './index-job.ts';

// A thread that stores and indexes one layer at a time.

doLayerJobs(async (job: IndexJob): Promise<IndexReply> => {
  try {
    return await indexLayer(job);
  } catch (error) {
    return { error: messageOf(error), kind: streamErrorKind(error) };
  }
});
