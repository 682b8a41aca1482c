// Original file: proto/gantry-v1.proto

import type { LayerState as _gantry_v1_LayerState, LayerState__Output as _gantry_v1_LayerState__Output } from '../../gantry/v1/LayerState.ts';
import type { Long } from '@grpc/proto-loader';

export interface Layer {
  'digest'?: (string);
  'sizeBytes'?: (number | string | Long);
  'fetchedBytes'?: (number | string | Long);
  'state'?: (_gantry_v1_LayerState);
}

export interface Layer__Output {
  'digest': (string);
  'sizeBytes': (string);
  'fetchedBytes': (string);
  'state': (_gantry_v1_LayerState__Output);
}
