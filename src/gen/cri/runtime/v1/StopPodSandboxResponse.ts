// Original file: proto/runtime-v1.proto


export interface StopPodSandboxResponse {
}

export interface StopPodSandboxResponse__Output {
}
