import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { expect } from 'chai';
import { awaitMaster } from '../../../src/os/console-socket.ts';
import { FdStream } from '../../../src/os/fd-stream.ts';
import { pipe, spawn } from '../../../src/os/spawn.ts';
import { Terminal } from '../../../src/os/terminal.ts';
import { leaksFail } from '../../lib/leaks.ts';

/** Sends the master of a new terminal as OCI runtimes do, then does with the slave what is asked. */
const SENDER = `
import array, fcntl, os, pty, socket, struct, sys, termios, time, tty
master, slave = pty.openpty()
if sys.argv[2] in ("burst", "deaf"): tty.setraw(slave)
s = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM); s.connect(sys.argv[1])
s.sendmsg([b"/dev/ptmx"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [master]))])
s.close(); os.close(master)
if sys.argv[2] == "burst":
    for i in range(20000): os.write(slave, b"%d\\n" % i)
if sys.argv[2] == "size":
    os.read(slave, 1)
    rows, columns = struct.unpack("hh", fcntl.ioctl(slave, termios.TIOCGWINSZ, b"1234"))
    os.write(slave, b"%d rows, %d columns" % (rows, columns))
if sys.argv[2] == "deaf":
    time.sleep(1)
    got = b""
    while len(got) < 300000: got += os.read(slave, 65536)
    os.write(slave, b"%d" % len(got))
`;

describe('os/terminal', () => {
  leaksFail({ mountPrefixes: [] });
  let dir: string;
  before(() => (dir = mkdtempSync(join(tmpdir(), 'gantry-test-tty-'))));
  after(() => rmSync(dir, { recursive: true }));

  async function terminal(mode: string): Promise<{ master: Terminal; output: () => string; ended: Promise<void> }> {
    const path = join(dir, mode);
    const { promise, resolve } = Promise.withResolvers<number>();
    awaitMaster(path, resolve);
    const child = spawn({ argv: ['python3', '-c', SENDER, path, mode] });
    const master = new Terminal(await promise);
    expect(existsSync(path)).to.equal(false);
    let text = '';
    master.on('data', (chunk: Buffer) => (text += chunk.toString()));
    const ended = new Promise<void>((done) => master.once('end', done)).then(async () => {
      await child.exited;
      master.destroy();
    });
    return { master, output: () => text, ended };
  }

  it('receives a terminal and reads all of it up to its end', async () => {
    const { output, ended } = await terminal('burst');
    await ended;
    expect(output().split('\n')).to.have.length(20_001);
    expect(output().endsWith('\n19999\n')).to.equal(true);
  });

  it('has a size', async () => {
    const { master, output, ended } = await terminal('size');
    master.resize({ width: 132, height: 43 });
    master.write('\n');
    await ended;
    expect(output()).to.include('43 rows, 132 columns');
    master.resize({ width: 1, height: 1 });
  });

  it('waits with what is written until it is read, without blocking', async () => {
    const { master, output, ended } = await terminal('deaf');
    let longestMs = 0;
    let lastMs = Date.now();
    const clock = setInterval(() => {
      longestMs = Math.max(longestMs, Date.now() - lastMs);
      lastMs = Date.now();
    }, 5);
    master.write(Buffer.alloc(300_000, 'x'));
    await ended;
    clearInterval(clock);
    expect(output()).to.equal('300000');
    expect(longestMs, 'longest stop of the event loop in ms').to.be.lessThan(500);
  });

  it('is not waited for any longer when the wait is ended', async () => {
    const path = join(dir, 'never');
    const close = awaitMaster(path, () => expect.fail('nobody sent one'));
    expect(existsSync(path)).to.equal(true);
    close();
    close();
    expect(existsSync(path)).to.equal(false);
  });
});

describe('os/fd-stream', () => {
  leaksFail({ mountPrefixes: [] });

  it('carries bytes from one end of a pipe to the other, at the pace of the reader', async () => {
    const { read, write } = pipe();
    const [from, to] = [new FdStream(write), new FdStream(read)];
    const sent = Buffer.alloc(3 << 20, 'abcdefg');
    from.end(sent);
    from.once('finish', () => from.destroy());
    await sleep(50);
    expect(from.writableLength, 'the pipe holds 64 KiB').to.be.greaterThan(2 << 20);
    const got: Buffer[] = [];
    for await (const chunk of to) got.push(chunk as Buffer);
    expect(Buffer.concat(got).equals(sent)).to.equal(true);
    to.destroy();
  });

  it('reads at once what is there, and knows when there is nothing', async () => {
    const { read, write } = pipe();
    const [from, to] = [new FdStream(write), new FdStream(read)];
    const flowing: string[] = [];
    to.on('data', (chunk: Buffer) => flowing.push(chunk.toString()));
    from.write('one');
    await sleep(50);
    to.stopReading();
    from.write('two');
    await sleep(50);
    expect(flowing).to.deep.equal(['one']);
    expect(to.readNow().toString()).to.equal('two');
    expect(to.readNow()).to.equal('empty');
    from.destroy();
    expect(to.readNow()).to.equal('end');
    to.destroy();
    expect(to.readNow()).to.equal('end');
  });

  it('fails a write that nobody will read', async () => {
    const { read, write } = pipe();
    const [from, to] = [new FdStream(write), new FdStream(read)];
    to.destroy();
    const error = await new Promise((resolve) => from.once('error', resolve).write('x'));
    expect(error).to.have.property('code', 'EPIPE');
    from.destroy();
  });
});
