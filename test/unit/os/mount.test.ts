import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync, existsSync, openSync, closeSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect } from 'chai';
import { newOp } from '../../../src/base/op.ts';
import { errnoOf } from '../../../src/base/errors.ts';
import { bindMount, mount, mountsUnder, umount, umountApart } from '../../../src/os/mount.ts';
import { leaksFail, mountLines } from '../../lib/leaks.ts';

const optionsOf = (target: string): string => mountLines(target)[0]?.split(' ')[5] ?? '';

describe('os/mount', function () {
  if (process.getuid?.() !== 0) return;
  const dir = mkdtempSync(join(tmpdir(), 'gantry-test-mount-'));
  leaksFail({ mountPrefixes: [dir] });
  const at = (name: string): string => {
    mkdirSync(join(dir, name), { recursive: true });
    return join(dir, name);
  };
  after(async () => {
    for (const target of mountsUnder(dir)) await umount(target, { detach: true });
    rmSync(dir, { recursive: true });
  });

  it('mounts with flags and data, and unmounts', async () => {
    const target = at('tmpfs with blank');
    mount({
      type: 'tmpfs',
      source: 'shm',
      target,
      flags: ['rw', 'nosuid', 'nodev', 'noexec', 'rprivate'].slice(0, 4),
      data: 'size=64k,mode=700',
    });
    expect(mountsUnder(dir)).to.deep.equal([target]);
    const line = mountLines(target.replaceAll(' ', '\\040'))[0] ?? '';
    expect(line).to.contain('nosuid,nodev,noexec').and.contain('size=64k');
    await umount(target);
    expect(mountsUnder(dir)).to.deep.equal([]);
  });

  it('refuses options that the kernel would cut off', () => {
    const target = at('cut');
    const data = (bytes: number): string => 'size=64k,'.padEnd(bytes, ',');
    expect(() => mount({ type: 'tmpfs', source: 'x', target, data: data(4096) })).to.throw('its options take 4096 bytes');
    expect(mountsUnder(dir)).to.deep.equal([]);
  });

  it('takes every mount off, and what is not mounted or not there is fine', async () => {
    const target = at('twice');
    for (let i = 0; i < 3; i++) mount({ type: 'tmpfs', source: 'x', target });
    await umount(target);
    await umount(target);
    await umount(join(target, 'missing'));
    expect(mountsUnder(dir)).to.deep.equal([]);
  });

  it('detaches what stays busy', async () => {
    const target = at('busy');
    mount({ type: 'tmpfs', source: 'x', target });
    writeFileSync(join(target, 'file'), '');
    const fd = openSync(join(target, 'file'), 'r');
    await umount(target);
    expect(mountsUnder(dir)).to.deep.equal([]);
    closeSync(fd);
  });

  it('does not follow a symlink in place of the mountpoint', async () => {
    const target = at('real');
    mount({ type: 'tmpfs', source: 'x', target });
    symlinkSync(target, join(dir, 'link'));
    await umount(join(dir, 'link'));
    expect(mountsUnder(dir)).to.deep.equal([target]);
    await umount(target);
  });

  it('binds read-only, all the way down, and keeps the other attributes', async () => {
    const source = at('source');
    mount({ type: 'tmpfs', source: 'x', target: source, flags: ['nosuid', 'nodev'] });
    mount({ type: 'tmpfs', source: 'y', target: at('source/below'), flags: ['noexec'] });
    const target = at('target');
    bindMount(source, target, { readOnly: true, recursive: true });
    expect(optionsOf(target)).to.match(/^ro,nosuid,nodev/);
    expect(optionsOf(join(target, 'below'))).to.match(/^ro,noexec/);
    expect(optionsOf(source)).to.match(/^rw,/);
    expect(() => writeFileSync(join(target, 'below', 'x'), '')).to.throw('EROFS');
    for (const each of mountsUnder(dir)) await umount(each);
  });

  it('says which errno a refused mount has', () => {
    try {
      mount({ type: 'tmpfs', source: 'x', target: join(dir, 'missing') });
      expect.fail();
    } catch (error) {
      expect(errnoOf(error)).to.equal('ENOENT');
    }
    expect(() => mount({ type: 'tmpfs', source: 'x', target: at('flag'), flags: ['sticky'] })).to.throw('flag sticky is known');
  });

  it('unmounts in a process of its own', async () => {
    const target = at('apart');
    mount({ type: 'tmpfs', source: 'x', target });
    mount({ type: 'tmpfs', source: 'x', target });
    const op = newOp('test', { timeoutMs: 5000 });
    await umountApart(op, target);
    await umountApart(op, target);
    expect(mountsUnder(dir)).to.deep.equal([]);
    expect(existsSync(target)).to.equal(true);
  });
});
