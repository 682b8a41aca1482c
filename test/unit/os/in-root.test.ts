import { expect } from 'chai';
import {
  closeSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readdirSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Worker } from 'node:worker_threads';
import { directoryInRoot, makeDirsInRoot, openInRoot } from '../../../src/os/in-root.ts';
import { O_DIRECTORY, O_PATH } from '../../../src/os/syscalls.ts';

describe('os/in-root (S2)', () => {
  let dir = '';
  let root = '';
  let outside = '';

  beforeEach(() => {
    dir = mkdtempSync(join(tmpdir(), 'gantry-in-root-'));
    root = join(dir, 'root');
    outside = join(dir, 'outside');
    mkdirSync(join(root, 'real/deep'), { recursive: true });
    mkdirSync(outside);
    writeFileSync(join(root, 'file'), '');
    symlinkSync('/real', join(root, 'absolute'));
    symlinkSync('../../../../../outside', join(root, 'climbing'));
    symlinkSync(outside, join(root, 'host'));
    symlinkSync('loop', join(root, 'loop'));
    symlinkSync('/nowhere', join(root, 'dangling'));
    symlinkSync('/proc/self/root', join(root, 'magic'));
  });
  afterEach(() => rmSync(dir, { recursive: true, force: true }));

  it('finds directories where the tree has them, whatever its symlinks say', () => {
    expect(directoryInRoot(root, '.')).to.equal(root);
    expect(directoryInRoot(root, '/')).to.equal(root);
    expect(directoryInRoot(root, '../..')).to.equal(root);
    expect(directoryInRoot(root, 'absolute/deep')).to.equal(join(root, 'real/deep'));
    for (const path of ['climbing', 'host', 'loop', 'dangling', 'file', 'file/x', 'missing', 'magic'])
      expect(directoryInRoot(root, path), path).to.equal(undefined);
  });

  it('makes what is missing, inside', () => {
    expect(makeDirsInRoot(root, '/new/a/b')).to.equal(true);
    expect(statSync(join(root, 'new/a/b')).mode & 0o7777).to.equal(0o755);
    expect(makeDirsInRoot(root, '/new/a/b')).to.equal(true);
    expect(makeDirsInRoot(root, '/')).to.equal(true);
    expect(makeDirsInRoot(root, '/absolute/./more//again')).to.equal(true);
    expect(existsSync(join(root, 'real/more/again'))).to.equal(true);
    expect(makeDirsInRoot(root, '/real/deep/../../../../../beside')).to.equal(true);
    expect(existsSync(join(root, 'beside'))).to.equal(true);
    expect(readdirSync(dir).sort()).to.deep.equal(['outside', 'root']);
  });

  it('leaves alone what is in the way, and the host', () => {
    for (const path of ['/dangling', '/dangling/x', '/file/x', '/loop/x', `/${'n'.repeat(300)}`, '/missing/../x/..'])
      expect([path, makeDirsInRoot(root, path)]).to.deep.equal([path, path === '/missing/../x/..']);
    for (const path of ['/climbing/escaped', '/host/escaped', '/magic/escaped']) makeDirsInRoot(root, path);
    expect(readdirSync(outside)).to.deep.equal([]);
    expect(existsSync(join(dir, 'escaped'))).to.equal(false);
    expect(existsSync('/escaped')).to.equal(false);
  });

  it('stays inside while the tree changes under it', async () => {
    const swapper = new Worker(
      `const { renameSync, symlinkSync } = require('node:fs');
       const { parentPort, workerData: [root, outside] } = require('node:worker_threads');
       const point = (to) => (symlinkSync(to, root + '/next'), renameSync(root + '/next', root + '/dir'));
       point('real');
       parentPort.postMessage('going');
       for (const until = Date.now() + 1000; Date.now() < until;) [outside, 'real', '../../outside'].forEach(point);`,
      { eval: true, workerData: [root, outside] },
    );
    const gone = new Promise((resolve) => swapper.once('exit', resolve));
    await new Promise((resolve) => swapper.once('message', resolve));
    let isOver = false;
    void gone.then(() => (isOver = true));
    let made = 0;
    const fd = openSync(root, O_PATH | O_DIRECTORY);
    try {
      for (; !isOver; made++) {
        try {
          makeDirsInRoot(root, `/dir/sub-${made}`);
          const opened = openInRoot(fd, `/dir/sub-${made}`, O_PATH | O_DIRECTORY);
          if (opened !== undefined) closeSync(opened);
        } catch (error) {
          // Too many changes in a row.
          expect((error as { code?: string }).code).to.equal('EAGAIN');
        }
        if (made % 50 === 0) await new Promise((resolve) => setImmediate(resolve));
      }
    } finally {
      closeSync(fd);
    }
    expect(made).to.be.greaterThan(100);
    expect(readdirSync(outside)).to.deep.equal([]);
  }).timeout(20_000);
});
