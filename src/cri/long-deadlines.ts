import { subscribe } from 'node:diagnostics_channel';
import { MAX_TIMER_MS } from '../base/op.ts';

const UNIT_MS: Readonly<Record<string, number>> = { H: 3_600_000, M: 60_000, S: 1000, m: 1, u: 1e-3, n: 1e-6 };
const HEADER = 'grpc-timeout';

/** A deadline of gRPC's wire (`2592120S`), but not beyond what grpc-js can count: 32 bits of milliseconds, of which it keeps the lower ones. */
export function boundedTimeout(text: string): string {
  const [, digits = '', unit = ''] = /^(\d{1,8})([HMSmun])$/.exec(text) ?? [];
  const timeoutMs = Number(digits) * (UNIT_MS[unit] ?? NaN);
  return timeoutMs > MAX_TIMER_MS ? `${Math.floor(MAX_TIMER_MS / 1000)}S` : text;
}

let isSubscribed = false;

/**
 * From now on every call of this process' gRPC servers has its deadline bounded, in its headers, before grpc-js reads them: its interceptors come too late. A
 * kubelet that stops a container with a grace period of 30 days has such a deadline, and grpc-js takes it for one that is over.
 */
export function boundDeadlines(): void {
  if (isSubscribed) return;
  isSubscribed = true;
  subscribe('http2.server.stream.start', (message) => {
    const { headers } = message as { headers: Record<string, unknown> };
    const asked = headers[HEADER];
    if (typeof asked === 'string') headers[HEADER] = boundedTimeout(asked);
  });
}
