import type { ClientStream } from './client-stream.ts';
import type { Upgrade } from './upgrade.ts';

/** What the protocols of port forwarding need to know. */
export interface ForwardSession {
  readonly upgrade: Upgrade;
  /** The only ports that may be asked for; none: any. */
  readonly ports: readonly number[];
  /** Joins `data` with a connection to `port`. Resolves when that has ended, with a text for the client if it could not begin. Never rejects. */
  readonly forward: (port: number, data: ClientStream) => Promise<string | undefined>;
}

/** A port that this session may reach, or undefined. */
export function allowedPort({ ports }: ForwardSession, text: string): number | undefined {
  const port = /^\d{1,5}$/.test(text) ? Number(text) : 0;
  return port >= 1 && port <= 65_535 && (ports.length === 0 || ports.includes(port)) ? port : undefined;
}
