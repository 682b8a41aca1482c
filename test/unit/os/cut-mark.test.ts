import { expect } from 'chai';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { CutMark } from '../../../src/os/cut-mark.ts';

describe('os/cut-mark', () => {
  it('tells that a machine went down, until that was looked into', async () => {
    const dir = mkdtempSync(join(tmpdir(), 'gantry-mark-'));
    try {
      const boot = (id: string): CutMark => new CutMark(join(dir, 'running'), id);
      const first = boot('1');
      expect(await first.wasCut(), 'the first start').to.equal(false);
      await first.set();
      expect(await boot('1').wasCut(), 'killed, and started again').to.equal(false);
      const cut = boot('2');
      expect(await cut.wasCut()).to.equal(true);
      await cut.clear();
      expect(await boot('2').wasCut(), 'ended before it was looked into').to.equal(true);
      const last = boot('3');
      expect(await last.wasCut()).to.equal(true);
      await last.set();
      await last.clear();
      expect(await boot('4').wasCut(), 'after a clean end').to.equal(false);
    } finally {
      rmSync(dir, { recursive: true });
    }
  });
});
