import { chmod, mkdir, mkdtemp, rename, rm } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { handleUnaryCall, ServiceDefinition, UntypedHandleCall } from '@grpc/grpc-js';
import { loadPackageDefinition, Server, ServerCredentials } from '@grpc/grpc-js';
import { load } from '@grpc/proto-loader';
import { ClassifiedError } from '../base/errors.ts';
import type { Logger } from '../base/log.ts';
import type { ProtoGrpcType } from '../gen/cri/runtime-v1.ts';
import type { ProtoGrpcType as GantryProto } from '../gen/gantry/gantry-v1.ts';
import type { GantryHandlers } from '../gen/gantry/gantry/v1/Gantry.ts';
import type { ImageServiceHandlers } from '../gen/cri/runtime/v1/ImageService.ts';
import type { RuntimeServiceHandlers } from '../gen/cri/runtime/v1/RuntimeService.ts';
import { boundDeadlines } from './long-deadlines.ts';
import { answerEncoder } from './of-records.ts';
import type { Edge, Row } from './unary.ts';
import { unary } from './unary.ts';

type Rows<Handlers> = { [Name in keyof Handlers]?: Row<Handlers[Name]> };
export type RuntimeRows = Rows<Omit<RuntimeServiceHandlers, never>>;
export type ImageRows = Rows<Omit<ImageServiceHandlers, never>>;
export type GantryRows = Rows<Omit<GantryHandlers, never>>;

/** What kubelet's own client allows for messages to it is not ours to limit; to us 16 MiB, as containerd and CRI-O. */
const MAX_RECEIVE_BYTES = 16 * 1024 * 1024;
const PROTOS = ['runtime-v1.proto', 'gantry-v1.proto'].map((name) => fileURLToPath(new URL(`../../proto/${name}`, import.meta.url)));

export interface CriServer {
  /** Unix socket, 0600 from its first moment; a stale one is replaced. */
  listen(socketPath: string): Promise<void>;
  /** Lets running calls end for `graceMs`, then ends them. */
  close(graceMs: number): Promise<void>;
}

/** Both CRI services in full, and our own beside them: an RPC without a row answers Unimplemented. */
export async function createCriServer(options: {
  runtime: RuntimeRows;
  image: ImageRows;
  gantry: GantryRows;
  log: Logger;
  observe?: Edge['observe'];
}): Promise<CriServer> {
  const definition = await load(PROTOS, {
    keepCase: false,
    longs: String,
    enums: String,
    defaults: true,
    arrays: true,
    objects: true,
    oneofs: true,
  });
  const { runtime, gantry } = loadPackageDefinition(definition) as unknown as ProtoGrpcType & GantryProto;
  boundDeadlines();
  const edge: Edge = { log: options.log, observe: options.observe ?? (() => undefined) };
  let path: string | undefined;
  const server = new Server({
    'grpc.max_receive_message_length': MAX_RECEIVE_BYTES,
    'grpc.max_send_message_length': -1,
  });
  const add = (service: ServiceDefinition, rows: RuntimeRows | ImageRows | GantryRows): void =>
    server.addService(encodingAnswers(service), bind(service, rows, edge));
  add(runtime.v1.RuntimeService.service, options.runtime);
  add(runtime.v1.ImageService.service, options.image);
  add(gantry.v1.Gantry.service, options.gantry);
  return {
    async listen(socketPath) {
      await mkdir(dirname(socketPath), { recursive: true, mode: 0o711 });
      // It is made where nobody else may look, so that it is never open to others, not even for a moment; children would inherit an umask.
      const dir = await mkdtemp(join(dirname(socketPath), '.'));
      try {
        const bound = join(dir, 's');
        await new Promise<void>((resolve, reject) => {
          server.bindAsync(`unix:${bound}`, ServerCredentials.createInsecure(), (error) => (error ? reject(error) : resolve()));
        });
        await chmod(bound, 0o600);
        await rename(bound, socketPath);
        path = socketPath;
      } finally {
        await rm(dir, { recursive: true, force: true });
      }
    },
    async close(graceMs) {
      if (path !== undefined) await rm(path, { force: true });
      const force = setTimeout(() => server.forceShutdown(), graceMs);
      await new Promise<void>((resolve) => server.tryShutdown(() => resolve()));
      clearTimeout(force);
    },
  };
}

const encodingAnswers = (service: ServiceDefinition): ServiceDefinition =>
  Object.fromEntries(
    Object.entries(service).map(([name, method]) => [name, { ...method, responseSerialize: answerEncoder(method.responseSerialize) }]),
  );

function bind(service: ServiceDefinition, rows: RuntimeRows | ImageRows | GantryRows, edge: Edge): Record<string, UntypedHandleCall> {
  const byName = rows as Record<string, Row<UntypedHandleCall> | undefined>;
  return Object.fromEntries(Object.keys(service).map((name) => [name, (byName[name] ?? missing(name))(name, edge)]));
}

/** grpc-js answers a registered method without a handler in words of its own; ours names the RPC. */
function missing(name: string): Row<UntypedHandleCall> {
  const refuse = unary<unknown, never, unknown>(
    () => {
      throw new ClassifiedError('unimplemented', `rpc ${name} is not implemented`);
    },
    () => undefined,
  );
  return (rpc, edge) => {
    const handler = refuse(rpc, edge) as handleUnaryCall<unknown, unknown>;
    return ((call: Parameters<typeof handler>[0], callback?: Parameters<typeof handler>[1]) => {
      // A stream's call has no callback; grpc-js ends it with the status of an error that it emits.
      handler(call, callback ?? ((error) => call.emit('error', Object.assign(new Error(), error))));
    }) as UntypedHandleCall;
  };
}
