import { execFileSync, spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { messageOf } from '../../src/base/errors.ts';

export type Filesystem = 'ext4' | 'xfs';

const DISK_BYTES = 512 << 20;

/** A filesystem of its own in a file. Made before the reactor is started, which would take the exits of mkfs and mount. */
export class QuotaDisk {
  readonly dir: string;
  readonly #parent: string;

  private constructor(parent: string) {
    this.#parent = parent;
    this.dir = join(parent, 'fs');
  }

  /** That counts projects; `counts` false: without that. Throws, with why, where it can't be had. */
  static make(filesystem: Filesystem, { counts = true } = {}): QuotaDisk {
    const disk = new QuotaDisk(mkdtempSync(join(tmpdir(), 'gantry-quota-')));
    const image = join(disk.#parent, 'disk.img');
    mkdirSync(disk.dir);
    writeFileSync(image, '');
    truncateSync(image, DISK_BYTES);
    const features = filesystem === 'ext4' && counts ? ['-O', 'project,quota', '-E', 'quotatype=prjquota'] : [];
    const made = spawnSync(`mkfs.${filesystem}`, ['-q', ...features, image], { encoding: 'utf8' });
    const options = ['loop', ...(counts ? ['prjquota'] : [])].join(',');
    const mounted = made.status === 0 ? spawnSync('mount', ['-t', filesystem, '-o', options, image, disk.dir], { encoding: 'utf8' }) : made;
    if (mounted.status === 0) return disk;
    rmSync(disk.#parent, { recursive: true });
    throw new Error((mounted.stderr || (mounted.error?.message ?? '')).split('\n')[0]);
  }

  /** Why this machine has none that counts: kernels without CONFIG_QFMT_V2 (ext4) or CONFIG_XFS_QUOTA, or no mkfs. hack/vm has all. */
  static missing(filesystem: Filesystem): string | undefined {
    try {
      QuotaDisk.make(filesystem)[Symbol.dispose]();
      return undefined;
    } catch (error) {
      return messageOf(error);
    }
  }

  [Symbol.dispose](): void {
    // A snapshotter keeps descriptors of its root.
    execFileSync('umount', ['--lazy', this.dir]);
    rmSync(this.#parent, { recursive: true });
  }
}
