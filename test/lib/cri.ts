import { fileURLToPath } from 'node:url';
import type { ClientReadableStream, ServiceError } from '@grpc/grpc-js';
import { credentials, loadPackageDefinition } from '@grpc/grpc-js';
import { loadSync } from '@grpc/proto-loader';
import type { ProtoGrpcType } from '../../src/gen/cri/runtime-v1.ts';
import type { ContainerEventResponse__Output } from '../../src/gen/cri/runtime/v1/ContainerEventResponse.ts';
import type { ImageServiceDefinition } from '../../src/gen/cri/runtime/v1/ImageService.ts';
import type { RuntimeServiceDefinition } from '../../src/gen/cri/runtime/v1/RuntimeService.ts';

const PROTO = fileURLToPath(new URL('../../proto/runtime-v1.proto', import.meta.url));

type Method<In, Out> = { requestSerialize: (value: In) => Buffer; responseDeserialize: (bytes: Buffer) => Out };
type Asked<M> = M extends Method<infer In, unknown> ? In : never;
type Answered<M> = M extends Method<never, infer Out> ? Out : never;
/** The RPCs as the client names them, without the index signature that would let any name pass. */
type Rpcs<D> = { [Name in keyof D as string extends Name ? never : Uncapitalize<Name & string>]: D[Name] };
type RuntimeRpcs = Rpcs<RuntimeServiceDefinition>;
type ImageRpcs = Rpcs<ImageServiceDefinition>;
type Streaming = (request: object) => ClientReadableStream<unknown>;
type Unary = (request: object, options: { deadline: number }, callback: (error: ServiceError | null, value?: unknown) => void) => void;

/** A client of one CRI socket, for tests and the scripts in hack/. Fails with grpc-js' ServiceError (`code`, `details`). */
export class Cri implements Disposable {
  readonly socket: string;
  readonly #runtime: InstanceType<ProtoGrpcType['runtime']['v1']['RuntimeService']>;
  readonly #image: InstanceType<ProtoGrpcType['runtime']['v1']['ImageService']>;

  constructor(socket: string) {
    this.socket = socket;
    const definition = loadSync(PROTO, {
      keepCase: false,
      longs: String,
      enums: String,
      defaults: true,
      arrays: true,
      objects: true,
      oneofs: true,
    });
    const { runtime } = loadPackageDefinition(definition) as unknown as ProtoGrpcType;
    const options = {
      'grpc.max_receive_message_length': -1,
      'grpc.initial_reconnect_backoff_ms': 50,
      'grpc.max_reconnect_backoff_ms': 200,
      'grpc.use_local_subchannel_pool': 1,
    };
    this.#runtime = new runtime.v1.RuntimeService(`unix:${socket}`, credentials.createInsecure(), options);
    this.#image = new runtime.v1.ImageService(`unix:${socket}`, credentials.createInsecure(), options);
  }

  runtime<Name extends keyof RuntimeRpcs>(
    name: Name,
    request: Asked<RuntimeRpcs[Name]>,
    timeoutMs = 60_000,
  ): Promise<Answered<RuntimeRpcs[Name]>> {
    return ask(this.#runtime, name, request as object, timeoutMs) as Promise<Answered<RuntimeRpcs[Name]>>;
  }

  image<Name extends keyof ImageRpcs>(name: Name, request: Asked<ImageRpcs[Name]>, timeoutMs = 60_000): Promise<Answered<ImageRpcs[Name]>> {
    return ask(this.#image, name, request as object, timeoutMs) as Promise<Answered<ImageRpcs[Name]>>;
  }

  /** All messages of a server-streaming RPC that ends by itself. */
  stream<Name extends keyof RuntimeRpcs>(name: Name, request: Asked<RuntimeRpcs[Name]>): Promise<Array<Answered<RuntimeRpcs[Name]>>> {
    const method = (this.#runtime as unknown as Record<string, Streaming | undefined>)[name];
    if (method === undefined) throw new Error(`no such RPC: ${name}`);
    const stream = method.call(this.#runtime, request as object);
    return stream.toArray() as Promise<Array<Answered<RuntimeRpcs[Name]>>>;
  }

  /** Calls back for each event until the result is disposed of. */
  events(seen: (event: ContainerEventResponse__Output) => void): Disposable {
    const stream: ClientReadableStream<ContainerEventResponse__Output> = this.#runtime.getContainerEvents({});
    stream.on('data', seen);
    stream.on('error', () => undefined);
    return { [Symbol.dispose]: () => stream.cancel() };
  }

  [Symbol.dispose](): void {
    this.#runtime.close();
    this.#image.close();
  }
}

function ask(client: object, name: string, request: object, timeoutMs: number): Promise<unknown> {
  const method = (client as Record<string, Unary | undefined>)[name];
  if (method === undefined) throw new Error(`no such RPC: ${name}`);
  return new Promise((resolve, reject) => {
    method.call(client, request, { deadline: Date.now() + timeoutMs }, (error, value) => (error === null ? resolve(value) : reject(error)));
  });
}
