/**
 * ```
 *   warm
 *    │ taken by a pod
 *    ▼
 *            collected                stop, or its pause process died
 * creating ────────────▶ ready ────────────────────────────────────▶ notReady ──▶ removing ──▶ (gone)
 *    │ undo failed          │                                           ▲             │ a step failed
 *    └──────▶ unknown ◀─────┘ record unreadable                         └─────────────┘
 *                └──────────▶ stop ────────────────────────────────────▶ notReady
 * ```
 * `warm` belongs to no pod yet (`pool.ts`), and its record goes with it when it is given back. `creating` is invisible to clients; `unknown` is listed as NotReady and can only be stopped and removed.
 */
export type SandboxState = 'warm' | 'creating' | 'ready' | 'notReady' | 'removing' | 'unknown';

const NEXT: Readonly<Record<SandboxState, readonly SandboxState[]>> = {
  warm: ['creating'],
  creating: ['ready', 'removing', 'unknown'],
  ready: ['notReady', 'unknown'],
  notReady: ['notReady', 'removing', 'unknown'],
  removing: ['removing', 'notReady'],
  unknown: ['notReady', 'removing', 'unknown'],
};

/** Whether the table has an arrow; a move it hasn't is a bug. */
export const mayMove = (from: SandboxState, to: SandboxState): boolean => NEXT[from].includes(to);

export const isSandboxState = (state: string): state is SandboxState => Object.hasOwn(NEXT, state);
