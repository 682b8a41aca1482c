import { fileURLToPath } from 'node:url';
import protobuf from 'protobufjs';

/** Messages as objects are what the types in `gen/` say. */
const OBJECTS: protobuf.IConversionOptions = { longs: String, enums: String, defaults: true, arrays: true, objects: true, oneofs: true };
const PROTOS = ['runtime-v1.proto', 'gantry-v1.proto'].map((name) => fileURLToPath(new URL(`../../proto/${name}`, import.meta.url)));

/** Bytes of the wire to requests, and answers to bytes. */
export interface Codec<Request, Response> {
  decode(bytes: Uint8Array): Request;
  encode(response: Response): Uint8Array;
}

/** An RPC as `proto/` declares it. */
export interface Rpc extends Codec<unknown, unknown> {
  readonly name: string;
  /** `/runtime.v1.RuntimeService/Version` */
  readonly path: string;
}

/** The RPCs of a service (`runtime.v1.RuntimeService`). */
export type Services = (name: string) => Rpc[];

export async function loadServices(): Promise<Services> {
  const root = (await protobuf.load(PROTOS)).resolveAll();
  return (service) =>
    root.lookupService(service).methodsArray.map(({ name, resolvedRequestType: request, resolvedResponseType: response }) => {
      if (request === null || response === null) throw new Error(`${service}.${name} has no types`);
      return {
        name,
        path: `/${service}/${name}`,
        decode: (bytes) => request.toObject(request.decode(bytes), OBJECTS),
        encode: (object) => response.encode(response.fromObject(object as Record<string, unknown>)).finish(),
      };
    });
}
