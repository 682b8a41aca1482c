import { mkdtempSync, rmSync } from 'node:fs';
import type { AddressInfo } from 'node:net';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect } from 'chai';
import { kindOf, messageOf } from '../../../src/base/errors.ts';
import { newOp } from '../../../src/base/op.ts';
import { connectToLoopback } from '../../../src/os/loopback.ts';
import { createNamespaces, removeNamespaces } from '../../../src/os/namespaces.ts';
import type { Child } from '../../../src/os/spawn.ts';
import { spawn } from '../../../src/os/spawn.ts';
import { leaksFail } from '../../lib/leaks.ts';

const op = () => newOp('test', { timeoutMs: 10_000 });

/** Answers one connection with what it got, once that has ended. */
const SERVER = `
import socket, sys
s = socket.socket(int(sys.argv[1])); s.bind((sys.argv[2], 80)); s.listen(1)
c, _ = s.accept()
got = b""
while True:
    part = c.recv(65536)
    if not part: break
    got += part
c.sendall(b"got " + got); c.close()
`;

async function answer(netns: string | undefined, port: number): Promise<string> {
  const socket = await connectToLoopback(op(), netns, port);
  socket.end('hello');
  let text = '';
  for await (const chunk of socket) text += String(chunk);
  return text;
}

describe('os/loopback', () => {
  if (process.getuid?.() !== 0) return;
  const root = mkdtempSync(join(tmpdir(), 'gantry-test-lo-'));
  const netns = join(root, 'ns', 'net');
  const children: Child[] = [];
  leaksFail({
    mountPrefixes: [root],
    warm: async () => {
      await createNamespaces({ dir: join(root, 'warm'), kinds: ['net'] });
      await removeNamespaces(join(root, 'warm'));
    },
  });
  after(() => rmSync(root, { recursive: true }));

  async function failure(promise: Promise<unknown>): Promise<string> {
    try {
      await promise;
    } catch (error) {
      return `${kindOf(error)}: ${messageOf(error)}`;
    }
    throw new Error('it did not fail');
  }

  describe('of a namespace and of ours', () => {
    before(() => createNamespaces({ dir: join(root, 'ns'), kinds: ['net'] }));
    after(async () => {
      for (const child of children) {
        child.kill(9);
        await child.exited;
      }
      await removeNamespaces(join(root, 'ns'));
    });

    for (const [family, address] of [
      [2, '127.0.0.1'],
      [10, '::1'],
    ] as const) {
      it(`reaches who listens on ${address} in a namespace, and half-closes`, async () => {
        children.push(spawn({ argv: ['nsenter', `--net=${netns}`, 'python3', '-c', SERVER, String(family), address] }));
        for (const untilMs = Date.now() + 5000; ;) {
          try {
            expect(await answer(netns, 80)).to.equal('got hello');
            return;
          } catch (error) {
            if (kindOf(error) !== 'unavailable' || Date.now() > untilMs) throw error;
          }
        }
      });
    }

    it('reaches our own loopback, on either address', async () => {
      for (const address of ['127.0.0.1', '::1']) {
        const server = createServer({ allowHalfOpen: true }, (socket) => socket.pipe(socket)).listen(0, address);
        await new Promise((resolve) => server.once('listening', resolve));
        expect(await answer(undefined, (server.address() as AddressInfo).port)).to.equal('hello');
        server.close();
      }
    });

    it('says when nobody listens, and when there is no such namespace', async () => {
      expect(await failure(connectToLoopback(op(), netns, 81))).to.equal('unavailable: connection refused');
      expect(await failure(connectToLoopback(op(), join(root, 'none'), 81))).to.match(/^notFound: network namespace/);
      const over = newOp('test', { signal: AbortSignal.abort() });
      expect(await failure(connectToLoopback(over, netns, 81))).to.match(/^cancelled/);
    });
  });
});
