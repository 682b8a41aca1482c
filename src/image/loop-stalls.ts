import { monitorEventLoopDelay } from 'node:perf_hooks';

const RESOLUTION_MS = 10;

/** The longest time since it began in which the event loop served nobody: a pull must not be felt by other calls. */
export function watchLoop(): Disposable & { maxStallMs(): number } {
  const histogram = monitorEventLoopDelay({ resolution: RESOLUTION_MS });
  histogram.enable();
  return {
    // Each sample holds the time that its timer waited on purpose.
    maxStallMs: () => Math.max(0, Math.round(histogram.max / 1e6 - RESOLUTION_MS)),
    [Symbol.dispose]: () => void histogram.disable(),
  };
}
