// Original file: proto/gantry-v1.proto

import type { PullState as _gantry_v1_PullState, PullState__Output as _gantry_v1_PullState__Output } from '../../gantry/v1/PullState.ts';
import type { Layer as _gantry_v1_Layer, Layer__Output as _gantry_v1_Layer__Output } from '../../gantry/v1/Layer.ts';
import type { Long } from '@grpc/proto-loader';

export interface Pull {
  'image'?: (string);
  'state'?: (_gantry_v1_PullState);
  'layers'?: (_gantry_v1_Layer)[];
  'startedAtNs'?: (number | string | Long);
  'error'?: (string);
}

export interface Pull__Output {
  'image': (string);
  'state': (_gantry_v1_PullState__Output);
  'layers': (_gantry_v1_Layer__Output)[];
  'startedAtNs': (string);
  'error': (string);
}
