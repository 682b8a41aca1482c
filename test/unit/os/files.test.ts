import { readdirSync, statSync, writeFileSync, symlinkSync, mkdirSync, openSync, closeSync, readFileSync } from 'node:fs';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { expect } from 'chai';
import { errnoOf, kindOf, messageOf } from '../../../src/base/errors.ts';
import { newOp } from '../../../src/base/op.ts';
import { readJson, writeFileAtomic, writeJson } from '../../../src/os/atomic-file.ts';
import { lockFile } from '../../../src/os/file-lock.ts';
import { sdNotify } from '../../../src/os/notify.ts';
import { hostPathMkdir, hostPathStat } from '../../../src/os/path-task.ts';
import { pipe, run, spawn } from '../../../src/os/spawn.ts';
import { makeFifo, O_PATH, openat2, RESOLVE } from '../../../src/os/syscalls.ts';
import { leaksFail } from '../../lib/leaks.ts';

const op = (timeoutMs = 10_000) => newOp('test', { timeoutMs });
const ROOT = join(import.meta.dirname, '../../..');

describe('os: files', () => {
  leaksFail({ mountPrefixes: [] });
  let dir: string;
  beforeEach(async () => {
    dir = await mkdtemp(join(tmpdir(), 'gantry-test-files-'));
  });
  afterEach(() => rm(dir, { recursive: true }));

  describe('atomic-file', () => {
    it('replaces the whole content, with its mode, and leaves no temporary file', async () => {
      const path = join(dir, 'record.json');
      await writeJson(path, { a: 1 });
      await writeJson(path, { b: [2] }, { sync: true });
      expect(await readJson(path)).to.deep.equal({ b: [2] });
      expect(statSync(path).mode & 0o777).to.equal(0o600);
      await writeFileAtomic(join(dir, 'public'), 'x', { mode: 0o644 });
      expect(statSync(join(dir, 'public')).mode & 0o777).to.equal(0o644);
      expect(readdirSync(dir).sort()).to.deep.equal(['public', 'record.json']);
    });

    it('leaves the old content and nothing else when it fails', async () => {
      mkdirSync(join(dir, 'taken'));
      await writeFileAtomic(join(dir, 'taken'), 'x').then(
        () => expect.fail(),
        (error: unknown) => expect(errnoOf(error)).to.equal('EISDIR'),
      );
      expect(readdirSync(dir)).to.deep.equal(['taken']);
    });

    it('never shows half of a write to a reader', async () => {
      const path = join(dir, 'busy');
      await writeFileAtomic(path, 'a'.repeat(100_000));
      let over = false;
      const reader = (async () => {
        while (!over) expect(new Set(await readFile(path, 'utf8')).size).to.equal(1);
      })();
      for (let i = 0; i < 50; i++) await writeFileAtomic(path, 'ab'.charAt(i % 2).repeat(100_000));
      over = true;
      await reader;
    });
  });

  describe('file-lock', () => {
    it('refuses a second holder by the pid of the first, here and in another process', async () => {
      const path = join(dir, 'lock');
      const message = `lock ${path}: held by process ${process.pid}`;
      {
        using _ = lockFile(path);
        expect(readFileSync(path, 'utf8')).to.equal(`${process.pid}\n`);
        expect(() => lockFile(path)).to.throw(message);
        const script = `import { lockFile } from './src/os/file-lock.ts'; try { lockFile(process.argv[1]); } catch (e) { console.log(e.kind, e.message); }`;
        const other = await run(op(), { argv: [process.execPath, '--input-type=module', '-e', script, path], cwd: ROOT });
        expect(other.stdout.toString(), other.stderr.toString()).to.equal(`failedPrecondition ${message}\n`);
      }
      lockFile(path)[Symbol.dispose]();
    });

    it('is not handed to children', async () => {
      const path = join(dir, 'lock');
      const lock = lockFile(path);
      const child = spawn({ argv: ['sleep', '60'] });
      lock[Symbol.dispose]();
      lockFile(path)[Symbol.dispose]();
      child.kill(9);
      await child.exited;
    });
  });

  describe('notify', () => {
    it('tells a listener, by path or in the abstract namespace', async () => {
      for (const path of [join(dir, 'notify'), `@gantry-test-${process.pid}`]) {
        const out = pipe();
        const script = `import socket,sys; s=socket.socket(socket.AF_UNIX,socket.SOCK_DGRAM); s.bind(sys.argv[1].replace('@','\\0',1)); s.settimeout(5); print('bound',flush=True); print(s.recv(100).decode())`;
        const child = spawn({ argv: ['python3', '-c', script, path], stdout: out.write });
        closeSync(out.write);
        while (!sdNotify('READY=1', path)) await sleep(10);
        expect((await child.exited).exitCode).to.equal(0);
        expect(readFileSync(out.read, 'utf8')).to.equal('bound\nREADY=1\n');
        closeSync(out.read);
      }
    });

    it('does not mind that nobody listens', () => {
      expect(sdNotify('READY=1', join(dir, 'missing'))).to.equal(false);
      expect(sdNotify('READY=1', '')).to.equal(false);
      expect(sdNotify('READY=1', `/${'x'.repeat(300)}`)).to.equal(false);
    });
  });

  describe('path-task', () => {
    it('tells what is at a path', async () => {
      writeFileSync(join(dir, 'file'), 'x');
      writeFileSync(join(dir, 'empty'), '');
      makeFifo(join(dir, 'fifo'), 0o600);
      symlinkSync('file', join(dir, 'link\nline'));
      symlinkSync('nowhere', join(dir, 'dangling'));
      const kindOfPath = async (name: string): Promise<string> => (await hostPathStat(op(), join(dir, name))).kind;
      expect(await kindOfPath('file')).to.equal('file');
      expect(await kindOfPath('empty')).to.equal('file');
      expect(await kindOfPath('.')).to.equal('directory');
      expect(await kindOfPath('fifo')).to.equal('other');
      expect(await kindOfPath('missing/below')).to.equal('missing');
      expect(await kindOfPath('dangling')).to.equal('missing');
      expect(await hostPathStat(op(), join(dir, 'link\nline'))).to.deep.equal({ kind: 'file', realPath: join(dir, 'file') });
    });

    it('takes what it can not reach for an error, not for missing', async () => {
      writeFileSync(join(dir, 'file'), '');
      symlinkSync('loop', join(dir, 'loop'));
      for (const [name, words] of [
        ['file/below', 'Not a directory'],
        ['loop', 'Too many levels'],
      ] as const) {
        await hostPathStat(op(), join(dir, name)).then(
          () => expect.fail(),
          (error: unknown) => {
            expect(kindOf(error)).to.equal('failedPrecondition');
            expect(messageOf(error)).to.contain(words);
          },
        );
      }
    });

    it('makes directories', async () => {
      await hostPathMkdir(op(), join(dir, '-a/b'));
      await hostPathMkdir(op(), join(dir, '-a/b'));
      expect(statSync(join(dir, '-a/b')).isDirectory()).to.equal(true);
      writeFileSync(join(dir, 'file'), '');
      await hostPathMkdir(op(), join(dir, 'file')).then(
        () => expect.fail(),
        (error: unknown) => expect(kindOf(error)).to.equal('failedPrecondition'),
      );
    });

    it('fails at its deadline when the path never answers, and our own work goes on', async () => {
      // Opening a FIFO that nobody writes to blocks in the kernel like a server that is gone.
      makeFifo(join(dir, 'hung'), 0o600);
      const beganMs = Date.now();
      const hung = run(op(300), { argv: ['cat', join(dir, 'hung')] });
      let ticks = 0;
      const timer = setInterval(() => ticks++, 10);
      await hung.then(
        () => expect.fail(),
        (error: unknown) => expect(kindOf(error)).to.equal('deadlineExceeded'),
      );
      clearInterval(timer);
      expect(Date.now() - beganMs).to.be.within(290, 1500);
      expect(ticks).to.be.above(10);
    });
  });

  it('openat2 stays below its root', () => {
    mkdirSync(join(dir, 'root/etc'), { recursive: true });
    writeFileSync(join(dir, 'root/etc/passwd'), 'inside');
    symlinkSync('/etc/passwd', join(dir, 'root/absolute'));
    symlinkSync('../../../../../../../etc/passwd', join(dir, 'root/climbing'));
    const root = openSync(join(dir, 'root'), O_PATH);
    for (const path of ['etc/passwd', 'absolute', 'climbing', '../../etc/passwd']) {
      const fd = openat2(root, path, { flags: 0, resolve: RESOLVE.inRoot | RESOLVE.noMagicLinks });
      expect(readFileSync(fd, 'utf8')).to.equal('inside');
      closeSync(fd);
    }
    expect(() => openat2(root, 'missing', { flags: 0, resolve: RESOLVE.inRoot })).to.throw('ENOENT');
    closeSync(root);
  });
});
