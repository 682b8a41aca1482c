import { readFile } from 'node:fs/promises';
import type { IncomingMessage, Server, ServerOptions } from 'node:http';
import { createServer as createTlsServer } from 'node:https';
import type { AddressInfo } from 'node:net';
import { once } from 'node:events';
import type { Duplex } from 'node:stream';
import { ClassifiedError, invalidArgument, messageOf, notFound, wrap } from '../base/errors.ts';
import type { Logger } from '../base/log.ts';
import { createServer } from '../base/node-http.ts';
import { TaskSet } from '../base/task-set.ts';
import type { AttachRequest } from '../gen/cri/runtime/v1/AttachRequest.ts';
import type { ExecRequest } from '../gen/cri/runtime/v1/ExecRequest.ts';
import type { PortForwardRequest } from '../gen/cri/runtime/v1/PortForwardRequest.ts';
import type { WantedStreams } from './command.ts';
import { serveAttach } from './attach.ts';
import { serveExec } from './exec.ts';
import type { StreamingLimits } from './limits.ts';
import { DEFAULT_LIMITS } from './limits.ts';
import { servePortForward } from './port-forward.ts';
import type { StreamRuntime } from './stream-runtime.ts';
import { Tokens } from './tokens.ts';
import { refuse } from './upgrade.ts';
import type { Upgrade } from './upgrade.ts';

export interface StreamingServerOptions {
  readonly runtime: StreamRuntime;
  /** An IP address to listen on; without one, loopback. Without `tls`, tokens and what people type go in the clear. */
  readonly address?: string;
  /** 0 or none: any free one. */
  readonly port?: number;
  /** PEM files. */
  readonly tls?: { readonly certFile: string; readonly keyFile: string };
  readonly log: Logger;
  readonly limits?: Partial<StreamingLimits>;
}

/**
 * Serves Exec, Attach and PortForward to clients of the CRI. The three methods answer with a URL that works once and for a minute. invalidArgument for a
 * request that names nothing or no stream, resourceExhausted when too many URLs wait.
 */
export interface StreamingServer {
  execUrl(request: ExecRequest): string;
  attachUrl(request: AttachRequest): string;
  portForwardUrl(request: PortForwardRequest): string;
  readonly address: string;
  readonly port: number;
  /** Open connections. */
  readonly sessions: number;
  /** Ends every session and resolves when the runtime has let go of all of them. */
  close(): Promise<void>;
}

type Serve = (upgrade: Upgrade) => Promise<void>;

/** Headers of a client that is slow to send them are not waited for longer. */
const REQUEST_TIMEOUT_MS = 10_000;
const PATH = /^\/(exec|attach|portforward)\/([A-Za-z0-9_-]{1,64})(?:\?|$)/;

export async function createStreamingServer(options: StreamingServerOptions): Promise<StreamingServer> {
  const { runtime, log, address = '127.0.0.1', port = 0, tls } = options;
  const limits = { ...DEFAULT_LIMITS, ...options.limits };
  const tokens = new Tokens<{ readonly verb: string; readonly serve: Serve }>(limits.maxTokens, limits.tokenLifetimeMs);
  const tasks = new TaskSet(log);
  const sessions = new Set<AbortController>();
  const http = { connectionsCheckingInterval: REQUEST_TIMEOUT_MS, headersTimeout: REQUEST_TIMEOUT_MS, requestTimeout: REQUEST_TIMEOUT_MS };
  const server: Server = tls ? await createWithTls(tls, http) : createServer(http);
  // Beside the sessions, those who still have to say what they want, and who are refused.
  server.maxConnections = 2 * limits.maxSessions;

  server.on('request', (request, response) => {
    const known = PATH.test(request.url ?? '');
    const text = known ? 'upgrade to SPDY/3.1 or a websocket is required\n' : 'not found\n';
    response.writeHead(known ? 400 : 404, { 'Content-Type': 'text/plain; charset=utf-8', Connection: 'close' }).end(text);
  });
  server.on('upgrade', (request, socket, head) => {
    tasks.start('streaming session', () => serve(request, socket, head));
  });

  async function serve(request: IncomingMessage, socket: Duplex, head: Buffer): Promise<void> {
    socket.on('error', () => {});
    const [, verb = '', token = ''] = PATH.exec(request.url ?? '') ?? [];
    const found = tokens.take(token);
    if (found?.verb !== verb) return refuse(socket, notFound('streaming url', verb));
    if (sessions.size >= limits.maxSessions)
      return refuse(socket, new ClassifiedError('resourceExhausted', `too many streaming sessions: ${sessions.size}`));
    const controller = new AbortController();
    const abort = (reason: Error): void => controller.abort(reason);
    sessions.add(controller);
    if ('setNoDelay' in socket) (socket as unknown as { setNoDelay(): void; setKeepAlive(on: boolean, ms: number): void }).setNoDelay();
    try {
      await found.serve({ request, socket, head, limits, log, signal: controller.signal, abort });
    } catch (error) {
      if (controller.signal.aborted) log.debug({ verb, err: messageOf(error) }, 'streaming session ended');
      else refuse(socket, error);
    } finally {
      sessions.delete(controller);
      controller.abort(new ClassifiedError('cancelled', 'the session is over'));
    }
  }

  server.listen(port, address);
  try {
    await once(server, 'listening');
  } catch (error) {
    throw wrap(`listen for streaming on ${address} port ${port}`, error, 'unavailable');
  }
  server.on('error', (error) => log.error({ err: messageOf(error) }, 'streaming server'));
  const bound = server.address() as AddressInfo;
  const base = `${tls ? 'https' : 'http'}://${hostFor(bound.address)}:${bound.port}`;
  const urlOf = (verb: string, serve: Serve): string => `${base}/${verb}/${tokens.add({ verb, serve })}`;

  return {
    execUrl(request) {
      const session = { containerId: required(request.containerId, 'container_id'), command: request.cmd ?? [], tty: request.tty ?? false };
      const wanted = wantedStreams(request);
      return urlOf('exec', (upgrade) => serveExec(upgrade, runtime, { ...session, wanted }));
    },
    attachUrl(request) {
      const session = { containerId: required(request.containerId, 'container_id'), tty: request.tty ?? false };
      const wanted = wantedStreams(request);
      return urlOf('attach', (upgrade) => serveAttach(upgrade, runtime, { ...session, wanted }));
    },
    portForwardUrl(request) {
      const podSandboxId = required(request.podSandboxId, 'pod_sandbox_id');
      const ports = request.port ?? [];
      const wrong = ports.find((port) => !(port >= 1 && port <= 65_535));
      if (wrong !== undefined) throw invalidArgument('port', `${wrong} is no port`);
      return urlOf('portforward', (upgrade) => servePortForward(upgrade, runtime, { podSandboxId, ports }));
    },
    address: bound.address,
    port: bound.port,
    get sessions() {
      return sessions.size;
    },
    async close() {
      server.close();
      server.closeAllConnections();
      for (const controller of sessions) controller.abort(new ClassifiedError('cancelled', 'the streaming server closes'));
      await tasks.drain();
    },
  };
}

async function createWithTls({ certFile, keyFile }: { certFile: string; keyFile: string }, http: ServerOptions): Promise<Server> {
  try {
    return createTlsServer({ ...http, cert: await readFile(certFile), key: await readFile(keyFile) });
  } catch (error) {
    throw wrap('read the streaming certificate', error, 'failedPrecondition');
  }
}

/** A host that a client on this node reaches: the kubelet passes the connection on. */
function hostFor(address: string): string {
  if (address === '0.0.0.0') return '127.0.0.1';
  if (address === '::') return '[::1]';
  return address.includes(':') ? `[${address}]` : address;
}

function required(value: string | undefined, field: string): string {
  if (!value) throw invalidArgument(field, 'is required');
  return value;
}

function wantedStreams(request: ExecRequest | AttachRequest): WantedStreams {
  const { stdin = false, stdout = false, stderr = false, tty = false } = request;
  if (tty && stderr) throw invalidArgument('stderr', 'a terminal has one output: tty and stderr exclude each other');
  if (!stdin && !stdout && !stderr) throw invalidArgument('stdin', 'at least one of stdin, stdout and stderr is required');
  return { stdin, stdout, stderr, tty };
}
