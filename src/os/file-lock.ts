import { closeSync, ftruncateSync, openSync, readFileSync, writeSync } from 'node:fs';
import { ClassifiedError } from '../base/errors.ts';
import { tryLock } from './syscalls.ts';

/** Held until disposed or until the process ends. */
export type FileLock = Disposable;

/** flock(2) with our pid in the file. failedPrecondition names the holder. */
export function lockFile(path: string): FileLock {
  const fd = openSync(path, 'a+', 0o600);
  if (!tryLock(fd)) {
    const holder = readFileSync(fd, 'utf8').trim();
    closeSync(fd);
    throw new ClassifiedError('failedPrecondition', `lock ${path}: held by process ${holder === '' ? 'unknown' : holder}`);
  }
  ftruncateSync(fd);
  writeSync(fd, `${process.pid}\n`);
  return { [Symbol.dispose]: () => closeSync(fd) };
}
