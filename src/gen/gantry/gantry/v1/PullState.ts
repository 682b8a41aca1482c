// Original file: proto/gantry-v1.proto

export const PullState = {
  RESOLVING: 'RESOLVING',
  PULLING: 'PULLING',
  PULLED: 'PULLED',
  FAILED: 'FAILED',
} as const;

export type PullState =
  | 'RESOLVING'
  | 0
  | 'PULLING'
  | 1
  | 'PULLED'
  | 2
  | 'FAILED'
  | 3

export type PullState__Output = typeof PullState[keyof typeof PullState]
