import type { Stats } from 'node:fs';
import { closeSync, constants, fchmodSync, fchownSync, fstatSync, lstatSync, openSync, unlinkSync, utimesSync } from 'node:fs';
import { rm } from 'node:fs/promises';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { ClassifiedError, errnoOf } from '../base/errors.ts';
import type { Op } from '../base/op.ts';
import { throwIfOver } from '../base/op.ts';
import { makeWhiteout, O_CLOEXEC, O_DIRECTORY, O_PATH, openat2, RESOLVE, setXattr } from '../os/syscalls.ts';
import type { LayerChanges } from './tar/layer-filter.ts';

const OPAQUE_XATTR = 'trusted.overlay.opaque';
const YES = Buffer.from('y');
/** Each step is some microseconds of system calls on the event loop. */
const STEPS_PER_TURN = 100;

/** A directory of a layer, found without leaving the layer (S2). */
interface Dir extends Disposable {
  /** What is asked of `<path>/<name>` happens in this very directory, whatever its name stands for by then. */
  readonly path: string;
  readonly fd: number;
}

/** undefined when there is no such directory. Symlinks lead where they would in a container. */
function openBelow(rootFd: number, path: string, flags = O_PATH): Dir | undefined {
  try {
    const how = { flags: flags | O_DIRECTORY, resolve: RESOLVE.inRoot | RESOLVE.noMagicLinks };
    const fd = openat2(rootFd, path === '' ? '.' : path, how);
    return { fd, path: `/proc/self/fd/${fd}`, [Symbol.dispose]: () => closeSync(fd) };
  } catch (error) {
    if (['ENOENT', 'ENOTDIR', 'ELOOP'].includes(errnoOf(error) ?? '')) return undefined;
    throw error;
  }
}

function openRoot(dir: string): Dir {
  const fd = openSync(dir, constants.O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  return { fd, path: `/proc/self/fd/${fd}`, [Symbol.dispose]: () => closeSync(fd) };
}

/** The bytes of the archive as text for system calls, which encode it back. */
function asText(path: string): string {
  const bytes = Buffer.from(path, 'latin1');
  const text = bytes.toString('utf8');
  if (!Buffer.from(text, 'utf8').equals(bytes))
    throw new ClassifiedError('failedPrecondition', `unpack layer: the name ${JSON.stringify(text.slice(0, 200))} is not UTF-8`);
  return text;
}

const split = (path: string): [dir: string, base: string] => {
  const at = path.lastIndexOf('/');
  return at < 0 ? ['', path] : [path.slice(0, at), path.slice(at + 1)];
};

/** A directory that was changed after its extraction gets its time back. */
function keepingTimes(dir: Dir, work: () => void): void {
  const { atimeMs, mtimeMs } = fstatSync(dir.fd);
  work();
  utimesSync(`${dir.path}/.`, atimeMs / 1000, mtimeMs / 1000);
}

/**
 * Turns the whiteouts of an extracted layer (OCI image-spec, "Whiteouts") into overlayfs's own: 0/0 character devices and the attribute
 * trusted.overlay.opaque. A whiteout hides what is below and never what came with it in the same layer; nothing is below the bottom layer.
 */
export async function applyWhiteouts(op: Op, fsDir: string, changes: LayerChanges & { isBottom: boolean }): Promise<void> {
  using root = openRoot(fsDir);
  const steps: Array<() => void | Promise<void>> = changes.markers.map((path) => () => removeMarker(root, asText(path)));
  if (!changes.isBottom) {
    steps.push(...changes.whiteouts.map((path) => () => hide(root, asText(path))));
    steps.push(...changes.opaques.map((path) => () => makeOpaque(root, asText(path))));
  }
  await inTurns(op, steps);
}

async function inTurns(op: Op, steps: ReadonlyArray<() => void | Promise<void>>): Promise<void> {
  for (const [done, step] of steps.entries()) {
    const pending = step();
    if (pending !== undefined) await pending;
    if (done % STEPS_PER_TURN !== STEPS_PER_TURN - 1) continue;
    await nextTurn();
    throwIfOver(op);
  }
}

function removeMarker(root: Dir, path: string): void | Promise<void> {
  const [parent, base] = split(path);
  const dir = openBelow(root.fd, parent);
  if (dir === undefined) return;
  const target = `${dir.path}/${base}`;
  if (lstatSync(target, { throwIfNoEntry: false })?.isDirectory() === true)
    return rm(target, { recursive: true, force: true }).finally(() => dir[Symbol.dispose]());
  using _ = dir;
  keepingTimes(dir, () => {
    if (lstatSync(target, { throwIfNoEntry: false }) !== undefined) unlinkSync(target);
  });
}

function hide(root: Dir, path: string): void {
  const [parent, base] = split(path);
  using dir = openBelow(root.fd, parent);
  if (dir === undefined) return;
  const target = `${dir.path}/${base}`;
  const there = lstatSync(target, { throwIfNoEntry: false });
  if (there === undefined) keepingTimes(dir, () => makeWhiteout(target));
  else if (there.isDirectory()) setXattr(target, OPAQUE_XATTR, YES);
}

function makeOpaque(root: Dir, path: string): void {
  using dir = openBelow(root.fd, path);
  if (dir !== undefined) setXattr(`${dir.path}/.`, OPAQUE_XATTR, YES);
}

/**
 * Directories that the layer holds without saying anything of them look like those of the layers below (topmost first), as they would had
 * the layer been unpacked on top of them; without any, like every directory that nobody described: 0755, root's.
 */
export async function adoptImpliedDirs(
  op: Op,
  { fsDir, paths, lowerDirs }: { fsDir: string; paths: readonly string[]; lowerDirs: readonly string[] },
): Promise<void> {
  using stack = new DisposableStack();
  const root = stack.use(openRoot(fsDir));
  const lowers = lowerDirs.map((dir) => stack.use(openRoot(dir)));
  await inTurns(
    op,
    paths.map((bytes) => () => {
      const path = asText(bytes);
      using own = openBelow(root.fd, path, constants.O_RDONLY);
      if (own === undefined) return;
      const model = lowers.map((lower) => statBelow(lower.fd, path)).find((stat) => stat !== undefined);
      fchownSync(own.fd, model?.uid ?? 0, model?.gid ?? 0);
      fchmodSync(own.fd, (model?.mode ?? 0o755) & 0o7777);
      if (model !== undefined) utimesSync(`${own.path}/.`, model.atimeMs / 1000, model.mtimeMs / 1000);
    }),
  );
}

function statBelow(rootFd: number, path: string): Stats | undefined {
  using dir = openBelow(rootFd, path);
  return dir === undefined ? undefined : fstatSync(dir.fd);
}
