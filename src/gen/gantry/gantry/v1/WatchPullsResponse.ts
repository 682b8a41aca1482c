// Original file: proto/gantry-v1.proto

import type { Pull as _gantry_v1_Pull, Pull__Output as _gantry_v1_Pull__Output } from '../../gantry/v1/Pull.ts';

export interface WatchPullsResponse {
  'pulls'?: (_gantry_v1_Pull)[];
}

export interface WatchPullsResponse__Output {
  'pulls': (_gantry_v1_Pull__Output)[];
}
