// Original file: proto/gantry-v1.proto

import type * as grpc from '@grpc/grpc-js'
import type { MethodDefinition } from '@grpc/proto-loader'
import type { WatchPullsRequest as _gantry_v1_WatchPullsRequest, WatchPullsRequest__Output as _gantry_v1_WatchPullsRequest__Output } from '../../gantry/v1/WatchPullsRequest.ts';
import type { WatchPullsResponse as _gantry_v1_WatchPullsResponse, WatchPullsResponse__Output as _gantry_v1_WatchPullsResponse__Output } from '../../gantry/v1/WatchPullsResponse.ts';

export interface GantryClient extends grpc.Client {
  WatchPulls(argument: _gantry_v1_WatchPullsRequest, metadata: grpc.Metadata, options?: grpc.CallOptions): grpc.ClientReadableStream<_gantry_v1_WatchPullsResponse__Output>;
  WatchPulls(argument: _gantry_v1_WatchPullsRequest, options?: grpc.CallOptions): grpc.ClientReadableStream<_gantry_v1_WatchPullsResponse__Output>;
  watchPulls(argument: _gantry_v1_WatchPullsRequest, metadata: grpc.Metadata, options?: grpc.CallOptions): grpc.ClientReadableStream<_gantry_v1_WatchPullsResponse__Output>;
  watchPulls(argument: _gantry_v1_WatchPullsRequest, options?: grpc.CallOptions): grpc.ClientReadableStream<_gantry_v1_WatchPullsResponse__Output>;
  
}

export interface GantryHandlers extends grpc.UntypedServiceImplementation {
  WatchPulls: grpc.handleServerStreamingCall<_gantry_v1_WatchPullsRequest__Output, _gantry_v1_WatchPullsResponse>;
  
}

export interface GantryDefinition extends grpc.ServiceDefinition {
  WatchPulls: MethodDefinition<_gantry_v1_WatchPullsRequest, _gantry_v1_WatchPullsResponse, _gantry_v1_WatchPullsRequest__Output, _gantry_v1_WatchPullsResponse__Output>
}
