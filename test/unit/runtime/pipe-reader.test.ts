import { openSync, writeSync, closeSync, constants, mkdtempSync, rmSync } from 'node:fs';
import { execFileSync } from 'node:child_process';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { expect } from 'chai';
import { Capture, readLine } from '../../../src/runtime/pipe-reader.ts';

setFlagsFromString('--expose-gc');
const collect = runInNewContext('gc') as () => void;

describe('pipes of processes', () => {
  let dir: string;
  let read: number;
  let write: number;
  beforeEach(() => {
    dir = mkdtempSync(join(tmpdir(), 'gantry-test-'));
    execFileSync('mkfifo', [join(dir, 'p')]);
    read = openSync(join(dir, 'p'), constants.O_RDONLY | constants.O_NONBLOCK);
    write = openSync(join(dir, 'p'), constants.O_WRONLY);
  });
  afterEach(() => {
    try {
      closeSync(write);
    } catch {
      // the test closed it
    }
    rmSync(dir, { recursive: true });
  });

  it('captures all that was written, without waiting for the other end to close', async () => {
    const capture = new Capture(read, 1 << 20);
    writeSync(write, 'one ');
    await sleep(20);
    writeSync(write, 'two');
    expect(capture.finish().toString()).to.equal('one two');
    expect(capture.finish().toString()).to.equal('one two');
    expect(capture.truncated).to.equal(false);
  });

  it('keeps the first bytes and drops the rest', async () => {
    const capture = new Capture(read, 5);
    writeSync(write, 'abc');
    await sleep(20);
    writeSync(write, 'defg');
    expect(capture.finish().toString()).to.equal('abcde');
    expect(capture.truncated).to.equal(true);
  });

  it('holds about what was written, however small the pieces', async () => {
    const capture = new Capture(read, 1 << 20);
    const usedBytes = (): number => {
      collect();
      const { heapUsed, external } = process.memoryUsage();
      return heapUsed + external;
    };
    const before = usedBytes();
    const all = Buffer.from(Array.from({ length: 20_000 }, (_, i) => i % 251));
    for (let at = 0; at < all.length; at++) {
      writeSync(write, all, at, 1);
      await new Promise((resolve) => setImmediate(resolve));
    }
    expect(usedBytes() - before).to.be.lessThan(512 << 10);
    expect(capture.finish().equals(all)).to.equal(true);
  });

  it('ends with its pipe', async () => {
    const capture = new Capture(read, 100);
    writeSync(write, 'x');
    closeSync(write);
    await sleep(20);
    expect(capture.finish().toString()).to.equal('x');
  });

  it('reads one line, or what there was', async () => {
    const line = readLine(read);
    writeSync(write, '{"data"');
    await sleep(10);
    writeSync(write, ': 1}\nmore');
    expect(await line.done).to.equal('{"data": 1}');
    line.close();
  });

  it('tells the end of a pipe that said nothing', async () => {
    const line = readLine(read);
    closeSync(write);
    expect(await line.done).to.equal(undefined);
  });
});
