/**
 * ```
 *            collected            start                 init ended
 * creating ────────────▶ created ───────▶ running ─────────────────▶ exited ──▶ removing ──▶ (gone)
 *    │ undo failed          │                                          ▲            │ a step failed
 *    ▼                      └──── stopped, or start failed ────────────┘◀───────────┘
 * unknown ──────────── stop ───────────────────────────────────────────┘
 * ```
 * `creating` is invisible to clients; `unknown` is listed as such and can only be stopped and removed.
 */
export type ContainerState = 'creating' | 'created' | 'running' | 'exited' | 'removing' | 'unknown';

const NEXT: Readonly<Record<ContainerState, readonly ContainerState[]>> = {
  creating: ['created', 'removing', 'unknown'],
  created: ['running', 'exited', 'unknown'],
  running: ['exited', 'unknown'],
  exited: ['removing', 'unknown'],
  removing: ['removing', 'exited'],
  unknown: ['exited', 'removing', 'unknown'],
};

/** Whether the table has an arrow; a move it hasn't is a bug. */
export const mayMove = (from: ContainerState, to: ContainerState): boolean => NEXT[from].includes(to);

export const isContainerState = (state: string): state is ContainerState => Object.hasOwn(NEXT, state);
