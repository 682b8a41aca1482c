import { expect } from 'chai';
import { closeSync, fdatasyncSync, mkdtempSync, openSync, readFileSync, rmSync, writeSync } from 'node:fs';
import { release } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import koffi from 'koffi';
import { WriteOut } from '../../../src/os/write-out.ts';

const MIB = 1 << 20;
/** cachestat(2), of Linux 6.5: the same number on all architectures. */
const CACHESTAT = 451;
const DIRTY_AT = 8;

describe('os/write-out', () => {
  const syscall = koffi.load('libc.so.6').func('syscall', 'long', ['long', 'int', 'void *', 'void *', 'unsigned int']);
  let dir: string;
  let fd: number;

  before(function () {
    const [major = 0, minor = 0] = release().split('.').map(Number);
    if (major < 6 || (major === 6 && minor < 5)) this.skip();
  });
  beforeEach(() => {
    // On a disk, where /tmp may be memory.
    dir = mkdtempSync('/var/tmp/gantry-write-out-');
    fd = openSync(join(dir, 'file'), 'wx+');
  });
  afterEach(() => {
    closeSync(fd);
    rmSync(dir, { recursive: true });
  });

  function dirtyBytes(): number {
    const out = Buffer.alloc(40);
    if (syscall(CACHESTAT, fd, Buffer.alloc(16), out, 0) !== 0) throw new Error('cachestat failed');
    return Number(out.readBigUInt64LE(DIRTY_AT)) * 4096;
  }

  it('has what a file grew by written while it grows, in steps', async () => {
    const out = new WriteOut(fd);
    const piece = Buffer.alloc(MIB, 'x');
    for (let mib = 1; mib <= 40; mib++) {
      writeSync(fd, piece);
      out.reached(mib * MIB);
    }
    // Two steps are on their way, the rest waits for who makes it durable.
    for (let waited = 0; dirtyBytes() > 8 * MIB && waited < 100; waited++) await sleep(20);
    expect(dirtyBytes()).to.equal(8 * MIB);
    fdatasyncSync(fd);
    expect(dirtyBytes()).to.equal(0);
    expect(readFileSync(join(dir, 'file')).length).to.equal(40 * MIB);
  });

  it('does nothing for a small file', () => {
    writeSync(fd, Buffer.alloc(15 * MIB));
    new WriteOut(fd).reached(15 * MIB);
    expect(dirtyBytes()).to.equal(15 * MIB);
  });
});
