import { silentLogger } from '../../src/base/log.ts';
import { startReactor, stopReactor } from '../../src/os/reactor.ts';
import { createOverlaySnapshotter } from '../../src/snapshot/overlay.ts';
import { findTools } from '../../src/snapshot/tools.ts';
import { snapshotterSuite } from '../conformance/snapshotter.ts';

const open = (root: string): ReturnType<typeof createOverlaySnapshotter> => createOverlaySnapshotter({ root, log: silentLogger });

describe('overlay snapshotter', () => {
  before(async function () {
    if (process.getuid?.() !== 0) this.skip();
    await startReactor();
  });
  after(() => stopReactor());
  snapshotterSuite('overlay', { open });

  // Without bsdtar, igzip and zstd, as on a fresh Debian: GNU tar and Node's own inflate.
  const plain = { ...findTools(), bsdtar: undefined, igzip: undefined, zstd: undefined };
  snapshotterSuite('overlay by GNU tar', { open: (root) => createOverlaySnapshotter({ root, log: silentLogger, tools: plain }) });
});
