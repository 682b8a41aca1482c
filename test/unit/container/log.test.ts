import { existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect } from 'chai';
import type { ClassifiedError } from '../../../src/base/errors.ts';
import { prepareLog } from '../../../src/container/log.ts';
import { makeFifo } from '../../../src/os/syscalls.ts';

describe('container/log', () => {
  let dir: string;
  beforeEach(() => (dir = mkdtempSync(join(tmpdir(), 'gantry-test-log-'))));
  afterEach(() => rmSync(dir, { recursive: true }));

  const refusal = async (logPath: string): Promise<string> => {
    const error: unknown = await prepareLog(join(dir, 'pod'), logPath).catch((e: unknown) => e);
    expect((error as ClassifiedError).kind).to.equal('invalidArgument');
    return (error as ClassifiedError).message;
  };

  it('makes directories and no file', async () => {
    await prepareLog(join(dir, 'pod'), './a/b/0.log');
    expect(readdirSync(join(dir, 'pod/a/b'))).to.deep.equal([]);
    await prepareLog(join(dir, 'pod'), 'a/b/0.log');
  });

  it('takes a log that is there', async () => {
    mkdirSync(join(dir, 'pod'));
    writeFileSync(join(dir, 'pod/0.log'), 'x');
    await prepareLog(join(dir, 'pod'), '0.log');
  });

  it('follows a symlink that leads to the log directory, as an admin may have made it', async () => {
    mkdirSync(join(dir, 'big'));
    symlinkSync('big', join(dir, 'pod'));
    await prepareLog(join(dir, 'pod'), 'c/0.log');
    expect(existsSync(join(dir, 'big/c'))).to.equal(true);
  });

  it('refuses symlinks below it, dangling or not, and what is no regular file', async () => {
    mkdirSync(join(dir, 'pod'));
    mkdirSync(join(dir, 'elsewhere'));
    symlinkSync(join(dir, 'elsewhere'), join(dir, 'pod/way'));
    symlinkSync('/nonexistent/x', join(dir, 'pod/0.log'));
    makeFifo(join(dir, 'pod/1.log'), 0o600);
    writeFileSync(join(dir, 'pod/file'), '');
    expect(await refusal('way/0.log')).to.equal('config.log_path: "way" is not a directory');
    expect(await refusal('0.log')).to.equal('config.log_path: "0.log" is a symbolic link');
    expect(await refusal('1.log')).to.equal('config.log_path: "1.log" is not a regular file');
    expect(await refusal('file/0.log')).to.equal('config.log_path: "file" is not a directory');
    expect(readdirSync(join(dir, 'elsewhere'))).to.deep.equal([]);
  });
});
