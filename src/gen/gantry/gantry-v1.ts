import type * as grpc from '@grpc/grpc-js';
import type { EnumTypeDefinition, MessageTypeDefinition } from '@grpc/proto-loader';

import type { GantryClient as _gantry_v1_GantryClient, GantryDefinition as _gantry_v1_GantryDefinition } from './gantry/v1/Gantry.ts';
import type { Layer as _gantry_v1_Layer, Layer__Output as _gantry_v1_Layer__Output } from './gantry/v1/Layer.ts';
import type { Pull as _gantry_v1_Pull, Pull__Output as _gantry_v1_Pull__Output } from './gantry/v1/Pull.ts';
import type { WatchPullsRequest as _gantry_v1_WatchPullsRequest, WatchPullsRequest__Output as _gantry_v1_WatchPullsRequest__Output } from './gantry/v1/WatchPullsRequest.ts';
import type { WatchPullsResponse as _gantry_v1_WatchPullsResponse, WatchPullsResponse__Output as _gantry_v1_WatchPullsResponse__Output } from './gantry/v1/WatchPullsResponse.ts';

type SubtypeConstructor<Constructor extends new (...args: any) => any, Subtype> = {
  new(...args: ConstructorParameters<Constructor>): Subtype;
};

export interface ProtoGrpcType {
  gantry: {
    v1: {
      Gantry: SubtypeConstructor<typeof grpc.Client, _gantry_v1_GantryClient> & { service: _gantry_v1_GantryDefinition }
      Layer: MessageTypeDefinition<_gantry_v1_Layer, _gantry_v1_Layer__Output>
      LayerState: EnumTypeDefinition
      Pull: MessageTypeDefinition<_gantry_v1_Pull, _gantry_v1_Pull__Output>
      PullState: EnumTypeDefinition
      WatchPullsRequest: MessageTypeDefinition<_gantry_v1_WatchPullsRequest, _gantry_v1_WatchPullsRequest__Output>
      WatchPullsResponse: MessageTypeDefinition<_gantry_v1_WatchPullsResponse, _gantry_v1_WatchPullsResponse__Output>
    }
  }
}

