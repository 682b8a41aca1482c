import { FdStream } from './fd-stream.ts';
import { setTerminalSize } from './syscalls.ts';

/** The master of a terminal. `destroy` closes it, and what runs in the terminal gets SIGHUP. */
export class Terminal extends FdStream {
  /** In characters. A terminal that is gone is no error. */
  resize(size: { readonly width: number; readonly height: number }): void {
    if (this.destroyed) return;
    const clamp = (value: number): number => Math.max(0, Math.min(0xffff, Math.trunc(value)));
    setTerminalSize(this.fd, { width: clamp(size.width), height: clamp(size.height) });
  }
}
