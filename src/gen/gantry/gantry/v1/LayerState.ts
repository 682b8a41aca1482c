// Original file: proto/gantry-v1.proto

export const LayerState = {
  WAITING: 'WAITING',
  FETCHING: 'FETCHING',
  UNPACKING: 'UNPACKING',
  READY: 'READY',
} as const;

export type LayerState =
  | 'WAITING'
  | 0
  | 'FETCHING'
  | 1
  | 'UNPACKING'
  | 2
  | 'READY'
  | 3

export type LayerState__Output = typeof LayerState[keyof typeof LayerState]
