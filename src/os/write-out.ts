import { createRequire } from 'node:module';
import type Koffi from 'koffi';

/** So much more of a file, and the disk is told. */
const STEP_BYTES = 16 << 20;
/** sync_file_range(2): begin to write what is dirty. */
const SYNC_FILE_RANGE_WRITE = 2;

type SyncFileRange = (fd: number, offset: number, bytes: number, flags: number) => number;
let syncFileRange: SyncFileRange | undefined;

/** The FFI takes a thread 5 ms to load: only those with large files do. */
function load(): SyncFileRange {
  const koffi = createRequire(import.meta.url)('koffi') as typeof Koffi;
  return koffi.load('libc.so.6').func('int sync_file_range(int fd, int64_t offset, int64_t bytes, unsigned int flags)') as SyncFileRange;
}

/**
 * Has a file that grows written to disk meanwhile, so that to make it durable in the end takes little. Makes nothing durable itself: fdatasync does, and
 * tells of errors. Unlike an fdatasync now and then it leaves the filesystem's journal alone, and waits only where the disk's queue is full.
 */
export class WriteOut {
  readonly #fd: number;
  #begun = 0;

  constructor(fd: number) {
    this.#fd = fd;
  }

  /** The file has so many bytes from its beginning on. */
  reached(bytes: number): void {
    if (bytes - this.#begun < STEP_BYTES) return;
    syncFileRange ??= load();
    // A filesystem that does not know it writes later.
    syncFileRange(this.#fd, this.#begun, bytes - this.#begun, SYNC_FILE_RANGE_WRITE);
    this.#begun = bytes;
  }
}
