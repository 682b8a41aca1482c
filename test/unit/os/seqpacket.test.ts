import { mkdir, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { expect } from 'chai';
import { errnoOf } from '../../../src/base/errors.ts';
import type { Seqpacket, SeqpacketHandlers } from '../../../src/os/seqpacket.ts';
import { connectSeqpacket } from '../../../src/os/seqpacket.ts';
import type { Child } from '../../../src/os/spawn.ts';
import { spawn } from '../../../src/os/spawn.ts';
import { leaksFail } from '../../lib/leaks.ts';

const SERVER = `
import socket, sys, time
s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET); s.bind(sys.argv[1]); s.listen(1)
c, _ = s.accept(); c.settimeout(5)
for i in range(500): c.send(b"%d:" % i + b"x" * 8000)
c.send(c.recv(100)[::-1])
if sys.argv[2] == "wait": c.recv(100)
if sys.argv[2] == "slow":
    time.sleep(0.3)
    got = 0
    while True:
        part = c.recv(65536)
        if not part: break
        got += len(part)
    c.send(b"%d bytes" % got)
if sys.argv[2] == "unread":
    time.sleep(0.3)
    c.send(b"last words")
`;

describe('os/seqpacket', () => {
  leaksFail({ mountPrefixes: [] });
  let dir: string;
  let server: Child;
  beforeEach(async () => {
    dir = await mkdtemp(join(tmpdir(), 'gantry-test-seq-'));
  });
  afterEach(async () => {
    server.kill(9);
    await server.exited;
    await rm(dir, { recursive: true });
  });

  async function connect(mode: string, handlers: SeqpacketHandlers): Promise<Seqpacket> {
    // Longer than an address can be.
    const below = join(dir, 'x'.repeat(100));
    await mkdir(below);
    const path = join(below, 'attach');
    server = spawn({ argv: ['python3', '-c', SERVER, 'attach', mode], cwd: below });
    for (;;) {
      try {
        return connectSeqpacket(path, handlers);
      } catch (error) {
        expect(errnoOf(error)).to.be.oneOf(['ENOENT', 'ECONNREFUSED']);
        await sleep(10);
      }
    }
  }

  it('gives every packet whole and in order, sends, and tells the end once', async () => {
    const packets: string[] = [];
    const { promise: ended, resolve } = Promise.withResolvers<unknown>();
    const socket = await connect('close', { onPacket: (packet) => packets.push(packet.toString()), onEnd: resolve });
    socket.send(Buffer.from('abc'));
    expect(await ended).to.equal(undefined);
    expect(packets.length).to.equal(501);
    expect(packets.slice(0, 500).every((packet, i) => packet === `${i}:${'x'.repeat(8000)}`)).to.equal(true);
    expect(packets[500]).to.equal('cba');
    socket.close();
    expect(() => socket.send(Buffer.from('late'))).to.throw('EBADF');
  });

  it('is closed by us, without an end', async () => {
    let ended = false;
    const { promise: first, resolve } = Promise.withResolvers<void>();
    const socket = await connect('wait', { onPacket: () => resolve(), onEnd: () => (ended = true) });
    await first;
    socket.close();
    socket.close();
    await server.exited;
    expect(ended).to.equal(false);
  });

  it('says when it can send again, and ends only its own direction', async () => {
    const packets: string[] = [];
    const { promise: ended, resolve } = Promise.withResolvers<unknown>();
    const socket = await connect('slow', { onPacket: (packet) => packets.push(packet.toString()), onEnd: resolve });
    socket.send(Buffer.from('abc'));
    let sent = 0;
    let refusals = 0;
    while (sent < 2000) {
      try {
        socket.send(Buffer.alloc(1000));
        sent++;
      } catch (error) {
        expect(errnoOf(error)).to.equal('EAGAIN');
        refusals++;
        await new Promise<void>((again) => socket.whenWritable(again));
      }
    }
    expect(refusals).to.be.greaterThan(0);
    socket.endWrites();
    expect(await ended).to.equal(undefined);
    expect(packets.at(-1)).to.equal('2000000 bytes');
  });

  it('hears a peer out that does not listen', async () => {
    const packets: string[] = [];
    const { promise: ended, resolve } = Promise.withResolvers<unknown>();
    const socket = await connect('unread', { onPacket: (packet) => packets.push(packet.toString()), onEnd: resolve });
    for (const text of ['abc', 'never', 'read']) socket.send(Buffer.from(text));
    expect(await ended).to.equal(undefined);
    expect(packets.at(-1)).to.equal('last words');
  });
});
