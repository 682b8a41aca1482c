// Original file: proto/runtime-v1.proto


export interface RemoveContainerResponse {
}

export interface RemoveContainerResponse__Output {
}
