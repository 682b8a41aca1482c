import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect } from 'chai';
import { labellable } from '../../../src/container/image-volumes.ts';
import { mountSnapshot } from '../../../src/container/rootfs.ts';
import { mountsUnder, umount } from '../../../src/os/mount.ts';
import { bindMounts } from '../../../src/snapshot/overlay-mounts.ts';
import { leaksFail, mountLines } from '../../lib/leaks.ts';

describe('container/image-volumes', function () {
  if (process.getuid?.() !== 0) return;
  const dir = mkdtempSync(join(tmpdir(), 'gantry-test-views-'));
  leaksFail({ mountPrefixes: [dir] });
  after(async () => {
    for (const target of mountsUnder(dir)) await umount(target, { detach: true });
    rmSync(dir, { recursive: true });
  });

  it('makes an overlay of a single layer where there is a label to give, with the same content and flags', async () => {
    const [layer, target] = [join(dir, 'layer'), join(dir, '0')];
    for (const path of [layer, target]) mkdirSync(path);
    writeFileSync(join(layer, 'file'), 'content');
    const specs = bindMounts(layer, true);
    expect(await labellable(specs, target, undefined)).to.equal(specs);
    // Without the label itself: this kernel may not know any.
    mountSnapshot(await labellable(specs, target, 'u:r:t:s0'), { target, layers: join(dir, 'layers'), flags: ['nosuid', 'nodev'] });
    expect(readFileSync(join(target, 'file'), 'utf8')).to.equal('content');
    expect(() => writeFileSync(join(target, 'new'), '')).to.throw('EROFS');
    const [line = ''] = mountLines(target);
    expect(line).to.contain(' ro,nosuid,nodev').and.contain(' - overlay ');
    await umount(target);
    expect(mountsUnder(dir)).to.deep.equal([]);
  });
});
