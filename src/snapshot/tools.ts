import { accessSync, constants } from 'node:fs';
import { delimiter, join } from 'node:path';
import { ClassifiedError } from '../base/errors.ts';

/** Programs found on this machine, absolute paths. */
export interface Tools {
  readonly path: string;
  readonly bsdtar: string | undefined;
  readonly tar: string | undefined;
}

export function findTools(path = process.env['PATH'] ?? ''): Tools {
  const find = (name: string): string | undefined =>
    path
      .split(delimiter)
      .map((dir) => join(dir, name))
      .find((candidate) => {
        try {
          accessSync(candidate, constants.X_OK);
          return true;
        } catch {
          return false;
        }
      });
  return { path, bsdtar: find('bsdtar'), tar: find('tar') };
}

/**
 * Extraction of the canonical tar on stdin. bsdtar locks itself into the directory by chroot, so symlinks of the layer mean what they mean in the
 * container and lead nowhere else (S2). GNU tar has no such option: it writes symlinks that could lead out last, so that nothing passes
 * through them; `..` and absolute names never reach either.
 */
export function extractArgv(tools: Tools, dir: string): string[] {
  if (tools.bsdtar !== undefined) {
    const keep = ['-p', '-P', '--same-owner', '--numeric-owner', '--xattrs', '--no-acls', '--no-fflags'];
    return [tools.bsdtar, '-x', ...keep, '-f', '-', '-C', dir, '--chroot'];
  }
  if (tools.tar !== undefined) {
    const keep = ['-p', '--same-owner', '--numeric-owner', '--xattrs', '--xattrs-include=*', '--no-acls', '--no-selinux'];
    return [tools.tar, '-x', ...keep, '--warning=no-timestamp', '-f', '-', '-C', dir];
  }
  throw new ClassifiedError('failedPrecondition', 'unpack layer: neither bsdtar nor tar is on PATH');
}
