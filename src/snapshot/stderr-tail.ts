import { Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';

const MAX_BYTES = 2048;
const DRAIN_MS = 200;

/** The last words of a program, for its error message. Owns the read end of the pipe. */
export class StderrTail {
  readonly #closed: Promise<void>;
  readonly #socket: Socket;
  #tail = Buffer.alloc(0);

  constructor(fd: number) {
    const socket = new Socket({ fd, readable: true, writable: false });
    this.#socket = socket;
    this.#closed = new Promise((resolve) => {
      socket.on('data', (chunk: Buffer) => {
        this.#tail = Buffer.concat([this.#tail, chunk]).subarray(-MAX_BYTES);
      });
      socket.on('error', () => resolve());
      socket.on('close', () => resolve());
    });
    socket.unref();
  }

  async text(): Promise<string> {
    await Promise.race([this.#closed, sleep(DRAIN_MS)]);
    this.#socket.destroy();
    return this.#tail.toString('utf8').trim().replaceAll('\n', '; ');
  }
}
