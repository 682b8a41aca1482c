import { readFile, stat } from 'node:fs/promises';

/** Path of a block device by its numbers; `8:0` where the kernel has no name for it (overlay, tmpfs, a device that is gone). */
export async function deviceName(major: number, minor: number): Promise<string> {
  const text = await readFile(`/sys/dev/block/${major}:${minor}/uevent`, 'utf8').catch(() => '');
  const name = /^DEVNAME=(\S+)$/m.exec(text)?.[1];
  return name === undefined ? `${major}:${minor}` : `/dev/${name}`;
}

/** Name of the device that a path lies on. The error has the errno. */
export async function deviceOf(path: string): Promise<string> {
  const { dev } = await stat(path, { bigint: true });
  // gnu_dev_major and gnu_dev_minor of glibc.
  const major = Number(((dev >> 8n) & 0xfffn) | ((dev >> 32n) & 0xfffff000n));
  const minor = Number((dev & 0xffn) | ((dev >> 12n) & 0xffffff00n));
  return deviceName(major, minor);
}
