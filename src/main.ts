import { stringify } from 'smol-toml';
import { messageOf } from './base/errors.ts';
import { createLogger } from './base/log.ts';
import type { Arguments } from './cli/args.ts';
import { parseArguments, usage } from './cli/args.ts';
import { loadConfig } from './config/load.ts';
import { reference } from './config/schema.ts';
import { RUNTIME_VERSION } from './cri/version.ts';
import { serve } from './daemon.ts';

/** How long an orderly end may take before it is none. */
const CLOSE_TIMEOUT_MS = 20_000;

try {
  await run(parseArguments(process.argv.slice(2)));
} catch (error) {
  process.stderr.write(`gantry: ${messageOf(error)}\n`);
  process.exit(1);
}

async function run(args: Arguments): Promise<void> {
  const print = (text: string): void => void process.stdout.write(`${text}\n`);
  if (args.command === 'help') return print(usage());
  if (args.command === 'version') return print(`gantry ${RUNTIME_VERSION}`);
  if (args.command === 'serve') return serveUntilSignal(args);
  if (args.command === 'pull' || args.command === 'images') return askDaemon(args, print);
  if (args.verb === 'reference') return print(reference());
  const { config, said } = loadConfig({ flags: args.flags, ...(args.configPath === undefined ? {} : { path: args.configPath }) });
  if (args.verb === 'check') return print('the configuration is valid');
  print(stringify(config));
  for (const [key, { origin }] of said) print(`# ${key}: ${origin}`);
}

/** Commands that a running daemon carries out. */
async function askDaemon(args: Arguments, print: (text: string) => void): Promise<void> {
  const { config } = loadConfig({ flags: args.flags, ...(args.configPath === undefined ? {} : { path: args.configPath }) });
  // Loaded only here: a daemon has no use for them.
  const { connect } = await import('./cli/client.ts');
  const { printImages } = await import('./cli/images.ts');
  const { pullWithProgress } = await import('./cli/pull.ts');
  using client = connect(config.socket);
  if (args.command === 'images') return await printImages(client, print);
  const { stderr } = process;
  print(await pullWithProgress(client, args.verb, { isTTY: stderr.isTTY, write: (text) => stderr.write(text) }));
}

async function serveUntilSignal(args: Arguments): Promise<void> {
  const { config } = loadConfig({ flags: args.flags, ...(args.configPath === undefined ? {} : { path: args.configPath }) });
  const log = createLogger(config.log.level, config.log.format);
  process.on('uncaughtException', (error) => {
    log.fatal({ err: messageOf(error), stack: error.stack }, 'a bug: uncaught error');
    process.exit(1);
  });
  const daemon = await serve(config, log);
  let closing = false;
  const close = (signal: string): void => {
    if (closing) process.exit(1);
    closing = true;
    log.info({ signal }, 'ending; containers go on running');
    setTimeout(() => process.exit(1), CLOSE_TIMEOUT_MS).unref();
    daemon.close().then(
      () => process.exit(0),
      (error: unknown) => {
        log.error({ err: messageOf(error) }, 'not ended in order');
        process.exit(1);
      },
    );
  };
  process.on('SIGTERM', close);
  process.on('SIGINT', close);
}
