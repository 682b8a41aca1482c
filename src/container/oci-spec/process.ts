import { invalidArgument } from '../../base/errors.ts';
import type { ContainerConfig__Output } from '../../gen/cri/runtime/v1/ContainerConfig.ts';
import type { ImageConfig } from '../../image/image.ts';

const DEFAULT_PATH = 'PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin';

/** CRI command and args over the image's: a command of its own drops the image's CMD too (CRI, ContainerConfig). */
export function argsOf(
  config: Pick<ContainerConfig__Output, 'command' | 'args'>,
  image: Pick<ImageConfig, 'entrypoint' | 'cmd'>,
): string[] {
  const entrypoint = config.command.length > 0 ? config.command : image.entrypoint;
  const args = config.args.length > 0 ? config.args : config.command.length > 0 ? [] : image.cmd;
  const all = [...entrypoint, ...args];
  if (all.length === 0) throw invalidArgument('config.command', 'is empty, and so are the entrypoint and the command of the image');
  return all;
}

/** Image first, the CRI over it by name, HOSTNAME and PATH where neither says. Names stay where they first stood. */
export function envOf(config: Pick<ContainerConfig__Output, 'envs' | 'tty'>, image: Pick<ImageConfig, 'env'>, hostname: string): string[] {
  const byName = new Map<string, string>();
  const add = (entry: string): void => {
    const name = entry.split('=', 1)[0] ?? '';
    // An image's word: an entry without a name or with a NUL byte is left out, not passed on (S1).
    if (name !== '' && entry.includes('=') && !entry.includes('\0')) byName.set(name, entry);
  };
  add(DEFAULT_PATH);
  if (hostname !== '') add(`HOSTNAME=${hostname}`);
  if (config.tty) add('TERM=xterm');
  image.env.forEach(add);
  for (const { key, value } of config.envs) byName.set(key, `${key}=${value}`);
  return [...byName.values()];
}

/** Absolute; the image's is taken only when it is. */
export function cwdOf(config: Pick<ContainerConfig__Output, 'workingDir'>, image: Pick<ImageConfig, 'workingDir'>): string {
  if (config.workingDir !== '') return config.workingDir;
  return image.workingDir.startsWith('/') && !image.workingDir.includes('\0') ? image.workingDir : '/';
}
