import { setTimeout as sleep } from 'node:timers/promises';
import type { Op } from '../base/op.ts';
import type { WatchPullsRequest__Output } from '../gen/gantry/gantry/v1/WatchPullsRequest.ts';
import type { WatchPullsResponse } from '../gen/gantry/gantry/v1/WatchPullsResponse.ts';
import type { ServiceDeps } from './deps.ts';
import { serverStream } from './server-stream.ts';
import type { GantryRows } from './server.ts';
import { pullsView } from './view/pulls.ts';

const EVERY_MS = 200;

/** What Gantry tells beyond the CRI (proto/gantry-v1.proto). */
export function gantryService({ images }: Pick<ServiceDeps, 'images'>): GantryRows {
  return {
    WatchPulls: serverStream(
      (request: WatchPullsRequest__Output) => request,
      async function* (op: Op): AsyncGenerator<WatchPullsResponse> {
        for (; !op.signal.aborted; await sleep(EVERY_MS, undefined, { signal: op.signal }).catch(() => undefined)) {
          const pulls = images.pulls();
          if (pulls.length > 0) yield pullsView(pulls);
        }
      },
    ),
  };
}
