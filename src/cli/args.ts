import { parseArgs } from 'node:util';
import { ClassifiedError, messageOf } from '../base/errors.ts';
import { SETTINGS } from '../config/schema.ts';

/** What a command line asks for. `flags` by the dotted keys of the configuration. */
export interface Arguments {
  readonly command: (typeof COMMANDS)[number];
  /** Of `config`: check, dump or reference; of `pull`: the image. */
  readonly verb: string;
  readonly configPath: string | undefined;
  readonly flags: ReadonlyMap<string, unknown>;
}

const COMMANDS = ['serve', 'pull', 'images', 'config', 'version', 'help'] as const;
const VERBS = ['check', 'dump', 'reference'] as const;

/** invalidArgument for whatever is not known. */
export function parseArguments(argv: readonly string[]): Arguments {
  const options: Record<string, { type: 'string' | 'boolean'; multiple?: boolean }> = {
    config: { type: 'string' },
    handler: { type: 'string', multiple: true },
    help: { type: 'boolean' },
    version: { type: 'boolean' },
  };
  for (const { flag, type } of SETTINGS)
    if (flag !== undefined) options[flag] = { type: 'string', multiple: type === 'paths' || type === 'strings' };
  let parsed: { values: Record<string, unknown>; positionals: string[] };
  try {
    parsed = parseArgs({ args: [...argv], options, allowPositionals: true, strict: true }) as typeof parsed;
  } catch (error) {
    throw new ClassifiedError('invalidArgument', messageOf(error));
  }
  const { values, positionals } = parsed;
  const [command = values['version'] === true ? 'version' : 'help', verb = '', ...rest] = positionals;
  if (!COMMANDS.some((each) => each === command))
    throw new ClassifiedError('invalidArgument', `unknown command "${command}"; see gantry help`);
  if (command === 'config' && !VERBS.some((each) => each === verb))
    throw new ClassifiedError('invalidArgument', `config ${verb}: one of ${VERBS.join(', ')} is expected`);
  if (command === 'pull' && verb === '') throw new ClassifiedError('invalidArgument', 'pull: an image is expected');
  if (rest.length > 0 || (verb !== '' && command !== 'config' && command !== 'pull'))
    throw new ClassifiedError('invalidArgument', `unexpected argument "${rest[0] ?? verb}"`);
  return {
    command: values['help'] === true ? 'help' : (command as Arguments['command']),
    verb,
    configPath: values['config'] as string | undefined,
    flags: flagsOf(values),
  };
}

function flagsOf(values: Readonly<Record<string, unknown>>): Map<string, unknown> {
  const flags = new Map<string, unknown>();
  for (const { flag, key, type } of SETTINGS) {
    const value = flag === undefined ? undefined : values[flag];
    if (value === undefined) continue;
    flags.set(key, type === 'integer' && /^\d+$/.test(String(value)) ? Number(value) : value);
  }
  for (const text of (values['handler'] as string[] | undefined) ?? []) {
    const [name = '', path = ''] = text.split(/=(.*)/s, 2);
    if (name === '' || path === '') throw new ClassifiedError('invalidArgument', `--handler ${text}: name=path is expected`);
    flags.set(`handlers.${name}.path`, path);
  }
  return flags;
}

export function usage(): string {
  const flags = SETTINGS.flatMap(({ flag, description, key }) =>
    flag === undefined ? [] : [`  --${flag.padEnd(20)} ${description || key}`],
  );
  return [
    'gantry - a Kubernetes container runtime (CRI v1)',
    '',
    'gantry serve [flags]                  serve the CRI on a unix socket',
    'gantry pull IMAGE                     pull an image through the daemon, with a bar for each layer',
    'gantry images                         list the images of the daemon',
    'gantry config check|dump|reference    read the configuration and say what is wrong, what is in force, or what there is',
    'gantry version',
    '',
    'Flags (each wins over its key in the configuration file):',
    `  --${'config'.padEnd(20)} the configuration file; by default /etc/gantry/config.toml if it is there`,
    `  --${'handler'.padEnd(20)} name=path of a runtime handler; may be repeated`,
    ...flags,
  ].join('\n');
}
