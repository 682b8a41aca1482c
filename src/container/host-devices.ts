import { lstat, readdir, realpath, stat } from 'node:fs/promises';
import type { Stats } from 'node:fs';
import { join } from 'node:path';
import { errnoOf, invalidArgument } from '../base/errors.ts';
import type { Device__Output } from '../gen/cri/runtime/v1/Device.ts';
import type { HostDevice } from './oci-spec/devices.ts';

/** Of /dev: a mount of the container's own is where the host has these. */
const NOT_DEVICES: ReadonlySet<string> = new Set(['pts', 'shm', 'fd', 'mqueue', 'console', '.lxc', '.lxd-mounts', '.udev']);

// Linux: 12 bits of major number from bit 8 and the rest above 32; the minor's in between (makedev(3)).
const majorOf = (rdev: number): number => Number(((BigInt(rdev) >> 8n) & 0xfffn) | ((BigInt(rdev) >> 32n) & ~0xfffn));
const minorOf = (rdev: number): number => Number((BigInt(rdev) & 0xffn) | ((BigInt(rdev) >> 12n) & ~0xffn));

function deviceOf(path: string, stats: Stats, permissions: string): HostDevice | undefined {
  if (!stats.isCharacterDevice() && !stats.isBlockDevice()) return undefined;
  return {
    path,
    type: stats.isBlockDevice() ? 'b' : 'c',
    major: majorOf(stats.rdev),
    minor: minorOf(stats.rdev),
    fileMode: stats.mode & 0o777,
    uid: stats.uid,
    gid: stats.gid,
    permissions,
  };
}

/** Every device node under /dev, for privileged containers. */
export async function allHostDevices(dir = '/dev'): Promise<HostDevice[]> {
  const entries = await readdir(dir, { withFileTypes: true }).catch(() => []);
  const found = await Promise.all(
    entries
      .filter(({ name }) => !NOT_DEVICES.has(name))
      .map(async (entry): Promise<HostDevice[]> => {
        const path = join(dir, entry.name);
        if (entry.isDirectory()) return allHostDevices(path);
        if (!entry.isCharacterDevice() && !entry.isBlockDevice()) return [];
        const stats = await lstat(path).catch(() => undefined);
        const device = stats ? deviceOf(path, stats, 'rwm') : undefined;
        return device ? [device] : [];
      }),
  );
  return found.flat();
}

/** The devices of a container's config; a directory stands for every device below it. invalidArgument names the one that is missing or none. */
export async function askedDevices(devices: readonly Device__Output[]): Promise<HostDevice[]> {
  const found = await Promise.all(devices.map(async (device, index) => one(device, `config.devices[${index}].host_path`)));
  return found.flat();
}

async function one(device: Device__Output, field: string): Promise<HostDevice[]> {
  let stats: Stats;
  let real: string;
  try {
    real = await realpath(device.hostPath);
    stats = await stat(real);
  } catch (error) {
    throw invalidArgument(field, `${device.hostPath}: ${errnoOf(error) ?? 'not found'}`);
  }
  const permissions = device.permissions || 'rwm';
  if (stats.isDirectory()) {
    const below = await allHostDevices(real);
    return below.map((each) => ({
      ...each,
      path: join(device.containerPath, each.path.slice(real.length)),
      source: each.path,
      permissions,
    }));
  }
  const node = deviceOf(device.containerPath, stats, permissions);
  if (node === undefined) throw invalidArgument(field, `${device.hostPath} is not a device`);
  return [{ ...node, source: real }];
}
