// Original file: proto/gantry-v1.proto


export interface WatchPullsRequest {
}

export interface WatchPullsRequest__Output {
}
