import { silentLogger } from '../../src/base/log.ts';
import { startReactor, stopReactor } from '../../src/os/reactor.ts';
import { createErofsSnapshotter } from '../../src/snapshot/erofs/erofs.ts';
import type { Snapshotter } from '../../src/snapshot/snapshotter.ts';
import { findTools } from '../../src/snapshot/tools.ts';
import { snapshotterSuite } from '../conformance/snapshotter.ts';

const open = (root: string): Promise<Snapshotter> => createErofsSnapshotter({ root, log: silentLogger });

describe('erofs snapshotter', () => {
  before(async function () {
    if (process.getuid?.() !== 0) this.skip();
    await startReactor();
  });
  after(() => stopReactor());
  snapshotterSuite('erofs', { open });

  // As on Linux before 6.12, and without igzip and zstd.
  const plain = { ...findTools(), bsdtar: undefined, tar: undefined, igzip: undefined, zstd: undefined };
  const loops = [{ kind: 'loop', direct: true } as const, { kind: 'loop', direct: false } as const];
  snapshotterSuite('erofs by loop devices', {
    open: (root) => createErofsSnapshotter({ root, log: silentLogger, tools: plain, backings: loops }),
  });
});
