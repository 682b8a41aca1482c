import { closeSync, constants, openSync } from 'node:fs';
import { errnoOf } from '../base/errors.ts';
import { configureLoop, freeLoop, LO_FLAGS } from './syscalls.ts';

/** A file as a read-only block device. Disposing closes it here; it goes when nothing has it mounted. */
export interface LoopDevice extends Disposable {
  readonly device: string;
}

const TRIES = 16;

/** Freed by the kernel with its last user, even when this process is killed. The error has the kernel's errno. */
export function attachLoop(path: string, options: { directIo: boolean }): LoopDevice {
  const control = openSync('/dev/loop-control', constants.O_RDWR);
  try {
    const flags = LO_FLAGS.readOnly | LO_FLAGS.autoclear | (options.directIo ? LO_FLAGS.directIo : 0);
    for (let tries = 1; ; tries++) {
      const device = `/dev/loop${freeLoop(control)}`;
      const fd = openSync(device, constants.O_RDONLY);
      const file = openSync(path, constants.O_RDONLY);
      try {
        configureLoop(fd, { file, flags });
        return { device, [Symbol.dispose]: () => closeSync(fd) };
      } catch (error) {
        closeSync(fd);
        // Another took the free one first.
        if (errnoOf(error) !== 'EBUSY' || tries >= TRIES) throw error;
      } finally {
        closeSync(file);
      }
    }
  } finally {
    closeSync(control);
  }
}
