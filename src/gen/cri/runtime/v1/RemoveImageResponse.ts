// Original file: proto/runtime-v1.proto


export interface RemoveImageResponse {
}

export interface RemoveImageResponse__Output {
}
