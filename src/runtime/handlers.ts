import { join } from 'node:path';
import { ClassifiedError, invalidArgument, messageOf } from '../base/errors.ts';
import type { Logger } from '../base/log.ts';
import type { Config } from '../config/config.ts';
import { createOciRuntime } from './oci.ts';
import type { OciRuntime } from './oci.ts';

export interface HandlersOptions {
  readonly handlers: Config['handlers'];
  readonly defaultHandler: string;
  readonly conmonPath: string;
  /** `<state>/runtime`; each handler gets a directory in it. */
  readonly stateDir: string;
  readonly cgroupDriver: Config['cgroup']['driver'];
  readonly log: Logger;
}

/** runtime_handler (CRI RunPodSandboxRequest) -> driver. */
export interface Handlers {
  /** '' is the default handler; a name that isn't configured is the caller's mistake (invalidArgument). */
  get(name: string): OciRuntime;
  /** By name, in the order of the configuration; only those whose programs are there. */
  readonly all: ReadonlyMap<string, OciRuntime>;
}

/** A handler whose program is missing is logged and refused by name later; only the default handler's makes start-up fail (R6). */
export function createHandlers(options: HandlersOptions): Handlers {
  const { defaultHandler, conmonPath, stateDir, cgroupDriver, log } = options;
  const all = new Map<string, OciRuntime>();
  const broken = new Map<string, string>();
  for (const handler of options.handlers) {
    try {
      all.set(handler.name, createOciRuntime({ handler, conmonPath, stateDir: join(stateDir, handler.name), cgroupDriver, log }));
    } catch (error) {
      if (handler.name === defaultHandler) throw error;
      broken.set(handler.name, messageOf(error));
      log.warn({ handler: handler.name, err: messageOf(error) }, 'runtime handler is not usable');
    }
  }
  if (!all.has(defaultHandler)) throw invalidArgument('default_handler', `unknown handler ${JSON.stringify(defaultHandler)}`);
  return {
    all,
    get(name) {
      const wanted = name === '' ? defaultHandler : name;
      const found = all.get(wanted);
      if (found) return found;
      const why = broken.get(wanted);
      if (why !== undefined) throw new ClassifiedError('failedPrecondition', `runtime_handler: handler ${JSON.stringify(wanted)}: ${why}`);
      throw invalidArgument('runtime_handler', `unknown handler ${JSON.stringify(wanted)}`);
    },
  };
}
