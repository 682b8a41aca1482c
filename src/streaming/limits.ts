/** Every bound of the streaming server. Times in milliseconds, sizes in bytes. */
export interface StreamingLimits {
  /** URLs that were given out and not used yet. */
  readonly maxTokens: number;
  readonly tokenLifetimeMs: number;
  /** Client connections at a time. */
  readonly maxSessions: number;
  /** For the client to open the streams that it asked for. */
  readonly streamCreationMs: number;
  /** Without a byte in either direction; the kubelet's own default. */
  readonly idleMs: number;
  /** With output waiting and a client that takes none of it. Long by default: a person pages through `kubectl exec | less`. */
  readonly writeStallMs: number;
  /** For the client to read what is left and to close, once the command has ended. A slow client behind proxies still reads then. */
  readonly lingerMs: number;
  /** Between signs of life while nothing is read from the client, which is how its end is noticed then. */
  readonly keepAliveMs: number;
  /** Per connection, each way: input that nobody took (then reading stops), output that the client did not take (then the connection ends). */
  readonly backlogBytes: number;
  /** Open streams of one SPDY connection; a forwarded connection has two. */
  readonly maxStreams: number;
  /** One WebSocket message of the client's. */
  readonly maxMessageBytes: number;
}

export const DEFAULT_LIMITS: StreamingLimits = {
  maxTokens: 1000,
  tokenLifetimeMs: 60_000,
  maxSessions: 4096,
  streamCreationMs: 30_000,
  idleMs: 4 * 3_600_000,
  writeStallMs: 30 * 60_000,
  lingerMs: 15 * 60_000,
  keepAliveMs: 15_000,
  backlogBytes: 1 << 20,
  maxStreams: 1000,
  maxMessageBytes: 4 << 20,
};
