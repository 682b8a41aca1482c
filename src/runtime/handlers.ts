import { join } from 'node:path';
import { ClassifiedError, invalidArgument, messageOf } from '../base/errors.ts';
import type { Logger } from '../base/log.ts';
import type { Config } from '../config/config.ts';
import { createOciRuntime } from './oci.ts';
import type { OciRuntime } from './oci.ts';
import type { HandlerFeatures } from './runtime.ts';

export type HandlersConfig = Pick<Config, 'state' | 'handlers' | 'defaultHandler' | 'conmon' | 'cgroup'>;

/** That can be the name of a directory. */
const HANDLER_NAME = /^[A-Za-z0-9][A-Za-z0-9_.-]*$/;

/** runtime_handler (CRI RunPodSandboxRequest) -> driver. */
export interface Handlers {
  /** '' is the default handler; a name that isn't configured is the caller's mistake (invalidArgument). Needs no `this`. */
  readonly get: (name: string) => OciRuntime;
  /**
   * The same for what exists already: its handler may have been taken out of the configuration since, or its program uninstalled, and it must be possible to end it
   * (R6). Then the default handler's program stands in, with the other's state: processes, monitor and cgroup need no runtime to go.
   */
  readonly of: (name: string) => OciRuntime;
  /** For CRI Status: the usable handlers under their names, the default one under '' too (kubelet looks it up so). */
  readonly list: () => ReadonlyArray<{ name: string; features: HandlerFeatures }>;
}

/**
 * Drivers keep their state in `<state>/runtime/<handler>`. A handler whose program is missing is logged and refused by name later; only
 * the default handler's (or conmon's) makes start-up fail (R6). Where a rootfs can't be idmapped, no handler has user namespaces.
 */
export async function createHandlers(config: HandlersConfig, log: Logger, rootfs = { idmaps: true }): Promise<Handlers> {
  const { defaultHandler } = config;
  const drivers = new Map<string, OciRuntime>();
  const broken = new Map<string, string>();
  for (const handler of config.handlers) {
    const stateDir = join(config.state, 'runtime', handler.name);
    try {
      const { idmaps } = rootfs;
      const options = { idmaps, handler, conmonPath: config.conmon.path, stateDir, cgroupDriver: config.cgroup.driver, log };
      drivers.set(handler.name, createOciRuntime(options));
    } catch (error) {
      if (handler.name === defaultHandler) throw error;
      broken.set(handler.name, messageOf(error));
      log.warn({ handler: handler.name, err: messageOf(error) }, 'runtime handler is not usable');
    }
  }
  if (!drivers.has(defaultHandler)) throw invalidArgument('default_handler', `unknown handler ${JSON.stringify(defaultHandler)}`);
  const listed = await Promise.all([...drivers].map(async ([name, driver]) => ({ name, features: await driver.features() })));
  const ofDefault = listed.filter(({ name }) => name === defaultHandler).map(({ features }) => ({ name: '', features }));
  const get = (name: string): OciRuntime => {
    const wanted = name === '' ? defaultHandler : name;
    const found = drivers.get(wanted);
    if (found) return found;
    const why = broken.get(wanted);
    if (why !== undefined) throw new ClassifiedError('failedPrecondition', `runtime_handler: handler ${JSON.stringify(wanted)}: ${why}`);
    throw invalidArgument('runtime_handler', `unknown handler ${JSON.stringify(wanted)}`);
  };
  const standIns = new Map<string, OciRuntime>();
  const standIn = (name: string): OciRuntime => {
    const handler = config.handlers.find((each) => each.name === defaultHandler);
    if (handler === undefined) return get(name);
    log.warn({ handler: name }, 'a handler that is not usable has containers: the default one ends them');
    const stateDir = join(config.state, 'runtime', name);
    const options = { handler: { ...handler, name }, conmonPath: config.conmon.path, stateDir, cgroupDriver: config.cgroup.driver, log };
    return createOciRuntime(options);
  };
  return {
    list: () => [...ofDefault, ...listed],
    get,
    of: (name) => {
      // A record is as good as the disk that it was on.
      if (name === '' || drivers.has(name) || !HANDLER_NAME.test(name)) return get(name);
      const driver = standIns.get(name) ?? standIn(name);
      standIns.set(name, driver);
      return driver;
    },
  };
}
