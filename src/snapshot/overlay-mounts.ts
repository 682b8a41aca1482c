import { randomBytes } from 'node:crypto';
import { closeSync, constants, openSync } from 'node:fs';
import { mkdir, readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { ClassifiedError, isDiskFull } from '../base/errors.ts';
import { IdmappedView } from '../os/idmapped-view.ts';
import { MAX_DATA_BYTES, mount, umount } from '../os/mount.ts';
import { O_CLOEXEC, O_DIRECTORY, O_PATH } from '../os/syscalls.ts';
import { holdUserNamespace } from '../os/user-namespace.ts';
import type { MountSpec } from './snapshotter.ts';

/** Whoever mounts may add an SELinux label. */
const LABEL_BYTES = 255;

/** Options that this kernel's overlayfs takes and that we want on every writable overlay. */
export type OverlayOptions = readonly string[];

/**
 * `volatile` (Linux 5.10): an unmount does not write the whole filesystem back; a container's files need not survive a power cut. `index=off` where the kernel
 * has the index on: with it an upper directory that is still mounted elsewhere (a mount namespace that lingers) can't be mounted again.
 */
export async function probeOverlay(tmpDir: string): Promise<OverlayOptions> {
  const options: string[] = [];
  const index = await readFile('/sys/module/overlay/parameters/index', 'latin1').catch(() => 'N');
  if (index.startsWith('Y')) options.push('index=off');
  const probe = join(tmpDir, `probe-${randomBytes(4).toString('hex')}`);
  try {
    for (const dir of ['lower', 'upper', 'work', 'merged']) await mkdir(join(probe, dir), { recursive: true, mode: 0o700 });
    const data = `lowerdir=${probe}/lower,upperdir=${probe}/upper,workdir=${probe}/work,volatile`;
    mount({ type: 'overlay', source: 'overlay', target: join(probe, 'merged'), data });
    options.push('volatile');
  } catch (error) {
    if (isDiskFull(error)) throw error;
    // Not taken by this kernel, or we may not mount at all, which the first container will tell in the kernel's words.
  } finally {
    await umount(join(probe, 'merged'), { detach: true });
    await rm(probe, { recursive: true, force: true });
  }
  return options;
}

/** An overlay on an idmapped directory: Linux 5.19, and a filesystem that has idmapped mounts (tmpfs: 6.3). false as well where user namespaces are turned off. */
export async function probeIdmap(tmpDir: string): Promise<boolean> {
  const probe = join(tmpDir, `probe-${randomBytes(4).toString('hex')}`);
  const ids = [{ containerId: 0, hostId: 65_536, length: 65_536 }];
  try {
    for (const dir of ['lower', 'upper', 'work', 'merged']) await mkdir(join(probe, dir), { recursive: true, mode: 0o700 });
    await using holder = await holdUserNamespace([], { uids: ids, gids: ids });
    using view = new IdmappedView({
      dir: join(probe, 'lower'),
      userns: `/proc/${holder.pid}/ns/user`,
      at: join(probe, 'view'),
      recursive: false,
    });
    const data = `lowerdir=${view.path},upperdir=${probe}/upper,workdir=${probe}/work`;
    mount({ type: 'overlay', source: 'overlay', target: join(probe, 'merged'), data });
    return true;
  } catch (error) {
    if (isDiskFull(error)) throw error;
    return false;
  } finally {
    await umount(join(probe, 'merged'), { detach: true });
    await rm(probe, { recursive: true, force: true });
  }
}

export const bindMounts = (source: string, readOnly: boolean): MountSpec[] => [
  { type: 'bind', source, flags: ['bind'], data: '' },
  // A bind mount takes its flags only when it is mounted again.
  ...(readOnly ? [{ type: 'bind', source: '', flags: ['bind', 'remount', 'ro'], data: '' }] : []),
];

/**
 * The directory of all layers, named by a descriptor of ours: with it more than 150 layers fit in the page, whatever the root is called. Such a mount has to
 * be made by this process. Opened when first needed and then kept.
 */
export class ShortDir implements Disposable {
  readonly #dir: string;
  #fd: number | undefined;

  constructor(dir: string) {
    this.#dir = dir;
  }

  get path(): string {
    this.#fd ??= openSync(this.#dir, constants.O_RDONLY | O_PATH | O_DIRECTORY | O_CLOEXEC);
    return `/proc/self/fd/${this.#fd}`;
  }

  [Symbol.dispose](): void {
    if (this.#fd !== undefined) closeSync(this.#fd);
    this.#fd = undefined;
  }
}

export interface OverlayRequest {
  /** Names below the directory of all layers, topmost first; at least one, two without `upper`. */
  readonly layers: readonly string[];
  readonly layersDir: string;
  readonly shortDir: Pick<ShortDir, 'path'>;
  readonly upper?: { readonly upperDir: string; readonly workDir: string; readonly options: OverlayOptions };
}

/** One overlay mount; read-only without `upper`. resourceExhausted when its options don't fit in a page. */
export function overlayMount({ layers, layersDir, shortDir, upper }: OverlayRequest): MountSpec {
  const writable = upper ? [`upperdir=${upper.upperDir}`, `workdir=${upper.workDir}`, ...upper.options] : [];
  const dataBelow = (dir: string): string => [`lowerdir=${layers.map((name) => join(dir, name, 'fs')).join(':')}`, ...writable].join(',');
  let data = dataBelow(layersDir);
  if (Buffer.byteLength(data) > MAX_DATA_BYTES - LABEL_BYTES) data = dataBelow(shortDir.path);
  if (Buffer.byteLength(data) > MAX_DATA_BYTES)
    throw new ClassifiedError('resourceExhausted', `mount ${layers.length} layers: their paths take ${Buffer.byteLength(data)} bytes`);
  return { type: 'overlay', source: 'overlay', flags: upper ? [] : ['ro'], data };
}
