import { closeSync } from 'node:fs';
import { AF_UNIX, sendTo, SOCK_DGRAM, socket, unixAddress } from './syscalls.ts';

/** sd_notify(3): tells systemd `READY=1` and the like; nobody listening is no error. */
export function sdNotify(state: string, path = process.env['NOTIFY_SOCKET']): boolean {
  if (path === undefined || path === '') return false;
  const fd = socket(AF_UNIX, SOCK_DGRAM);
  try {
    sendTo(fd, Buffer.from(state), unixAddress(path));
    return true;
  } catch {
    return false;
  } finally {
    closeSync(fd);
  }
}
