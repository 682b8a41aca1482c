/** Node knows the sources of a signal only weakly. */
const sources = new WeakMap<AbortSignal, readonly AbortSignal[]>();
const ignore = (): void => undefined;

/**
 * Aborts when one of `signals` does, as AbortSignal.any. That one keeps each source with a timeout until it has passed, whatever became of the result
 * (Node 26, internal/abort_controller): 14 KiB for each pod, for ten minutes. Here they end with the result, unless somebody else holds or hears them.
 */
export function anySignal(signals: readonly AbortSignal[]): AbortSignal {
  const result = AbortSignal.any([...signals]);
  sources.set(result, signals);
  for (const each of signals) {
    // It is let go when its last listener leaves.
    each.addEventListener('abort', ignore);
    each.removeEventListener('abort', ignore);
  }
  return result;
}
