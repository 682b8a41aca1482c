import { expect } from 'chai';
import { mkdirSync, mkdtempSync, rmSync, symlinkSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { makeFifo } from '../../../src/os/syscalls.ts';
import { readRootfsFile, resolveUser } from '../../../src/container/rootfs-users.ts';
import type { UserRequest } from '../../../src/container/rootfs-users.ts';

const files = {
  passwd: 'root:x:0:0::/root:/bin/sh\nwww:x:33:34::/:/bin/sh\nbroken\n1000:x:7:7::/:/bin/sh\nbig:x:99999999999:1::/:\n',
  group: 'root:x:0:\nwww:x:34:\nextra:x:50:www,root\n',
};
const who = (change: Partial<UserRequest>): ReturnType<typeof resolveUser> =>
  resolveUser(
    { runAsUser: undefined, runAsGroup: undefined, runAsUsername: '', imageUser: '', supplementalGroups: [], policy: 'Merge', ...change },
    files,
  );

describe('container/rootfs-users (S4)', () => {
  it('takes digits for an id and never for a name', () => {
    expect(who({ imageUser: '1000' })).to.deep.equal({ uid: 1000, gid: 0, additionalGids: [0] });
    for (const imageUser of ['4294967296', '99999999999999999999', '-1', '4294967295'])
      expect(() => who({ imageUser }), imageUser).to.throw('is not a user or group id');
    expect(() => who({ imageUser: 'big' })).to.throw('no user "big"');
  });

  it('finds names, primary and further groups; Strict leaves the image out of it', () => {
    expect(who({ imageUser: 'www' })).to.deep.equal({ uid: 33, gid: 34, additionalGids: [34, 50] });
    expect(who({ imageUser: 'www', policy: 'Strict', supplementalGroups: ['7'] })).to.deep.equal({
      uid: 33,
      gid: 34,
      additionalGids: [34, 7],
    });
    expect(who({ imageUser: 'www:root' }).gid).to.equal(0);
    expect(who({ imageUser: '5:6' })).to.include({ uid: 5, gid: 6 });
    expect(who({ runAsUser: '33', imageUser: 'root:root' })).to.include({ uid: 33, gid: 34 });
    expect(who({ runAsUsername: 'www', runAsGroup: '9' }).gid).to.equal(9);
    expect(() => who({ runAsUsername: 'nobody-here' })).to.throw('run_as_username: no user "nobody-here"');
    expect(() => who({ imageUser: 'www:nogroup' })).to.throw('no group "nogroup"');
  });
});

describe('container/rootfs-users: files of an image (S2, S3)', () => {
  let rootfs: string;
  beforeEach(() => {
    rootfs = mkdtempSync(join(tmpdir(), 'gantry-rootfs-'));
    mkdirSync(join(rootfs, 'etc'));
  });
  afterEach(() => rmSync(rootfs, { recursive: true }));

  it('follows symlinks inside the rootfs only', () => {
    writeFileSync(join(rootfs, 'real'), 'inside');
    symlinkSync('/real', join(rootfs, 'etc', 'passwd'));
    expect(readRootfsFile(rootfs, 'etc/passwd')).to.equal('inside');
    symlinkSync('../../../../../../etc/hostname', join(rootfs, 'etc', 'group'));
    expect(readRootfsFile(rootfs, 'etc/group')).to.equal('');
    symlinkSync('/proc/self/root/etc/passwd', join(rootfs, 'etc', 'magic'));
    expect(readRootfsFile(rootfs, 'etc/magic')).to.equal('');
    expect(readRootfsFile(rootfs, 'etc/none')).to.equal('');
  });

  it('does not wait for a FIFO and does not read a huge file', async () => {
    makeFifo(join(rootfs, 'etc', 'passwd'), 0o600);
    expect(() => readRootfsFile(rootfs, 'etc/passwd')).to.throw('not a regular file');
    writeFileSync(join(rootfs, 'etc', 'group'), '');
    truncateSync(join(rootfs, 'etc', 'group'), 11 * 1024 * 1024);
    expect(() => readRootfsFile(rootfs, 'etc/group')).to.throw('the limit is');
  });
});
