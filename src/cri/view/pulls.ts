import type { WatchPullsResponse } from '../../gen/gantry/gantry/v1/WatchPullsResponse.ts';
import type { LayerState, PullProgress } from '../../image/progress.ts';

const STATES = { resolving: 'RESOLVING', pulling: 'PULLING', pulled: 'PULLED', failed: 'FAILED' } as const;
const LAYER_STATES = { waiting: 'WAITING', fetching: 'FETCHING', unpacking: 'UNPACKING', ready: 'READY' } as const satisfies Record<
  LayerState,
  string
>;

export function pullsView(pulls: readonly PullProgress[]): WatchPullsResponse {
  return {
    pulls: pulls.map(({ image, state, layers, startedAtNs, error }) => ({
      ...{ image, startedAtNs, error, state: STATES[state] },
      layers: layers.map((layer) => ({ ...layer, state: LAYER_STATES[layer.state] })),
    })),
  };
}
