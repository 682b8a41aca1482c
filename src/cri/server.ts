import { chmod, mkdir, mkdtemp, rename, rm } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { ClassifiedError } from '../base/errors.ts';
import type { Logger } from '../base/log.ts';
import type { ImageServiceDefinition } from '../gen/cri/runtime/v1/ImageService.ts';
import type { RuntimeServiceDefinition } from '../gen/cri/runtime/v1/RuntimeService.ts';
import type { GantryDefinition } from '../gen/gantry/gantry/v1/Gantry.ts';
import { loadServices } from './codec.ts';
import type { Handler } from './grpc.ts';
import { GrpcServer } from './grpc.ts';
import type { Edge, Row } from './unary.ts';
import { unary } from './unary.ts';

interface Messages<Request, Response> {
  requestDeserialize(bytes: Buffer): Request;
  responseSerialize(value: Response): Buffer;
}
type RowOf<Method> = Method extends Messages<infer Request, infer Response> ? Row<Request, Response> : never;
/** Without the index signature that would let any name pass. */
type Rows<Definition> = { [Name in keyof Definition as string extends Name ? never : Name]?: RowOf<Definition[Name]> };
export type RuntimeRows = Rows<RuntimeServiceDefinition>;
export type ImageRows = Rows<ImageServiceDefinition>;
export type GantryRows = Rows<GantryDefinition>;

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
  const services = await loadServices();
  const edge: Edge = { log: options.log, observe: options.observe ?? (() => undefined) };
  const handlers = new Map<string, Handler>();
  const add = (service: string, rows: object): void => {
    const byName = rows as Record<string, Row<unknown, unknown> | undefined>;
    for (const rpc of services(service)) handlers.set(rpc.path, (byName[rpc.name] ?? missing(rpc.name))(rpc.name, edge, rpc));
  };
  add('runtime.v1.RuntimeService', options.runtime);
  add('runtime.v1.ImageService', options.image);
  add('gantry.v1.Gantry', options.gantry);
  const server = new GrpcServer(handlers);
  let path: string | undefined;
  return {
    async listen(socketPath) {
      await mkdir(dirname(socketPath), { recursive: true, mode: 0o711 });
      // It is made where nobody else may look, so that it is never open to others, not even for a moment; children would inherit an umask.
      const dir = await mkdtemp(join(dirname(socketPath), '.'));
      try {
        const bound = join(dir, 's');
        await server.listen(bound);
        await chmod(bound, 0o600);
        await rename(bound, socketPath);
        path = socketPath;
      } finally {
        await rm(dir, { recursive: true, force: true });
      }
    },
    async close(graceMs) {
      if (path !== undefined) await rm(path, { force: true });
      await server.close(graceMs);
    },
  };
}

const missing = (name: string): Row<unknown, unknown> =>
  unary(
    () => {
      throw new ClassifiedError('unimplemented', `rpc ${name} is not implemented`);
    },
    () => undefined,
  );
