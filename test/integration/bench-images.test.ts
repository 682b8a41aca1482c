import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect } from 'chai';
import { execa } from 'execa';
import type { PullRow } from '../../hack/benchmark/images/rows.ts';
import { findProgram } from '../../hack/images/programs.ts';

const MAIN = fileURLToPath(new URL('../../hack/benchmark/images/main.ts', import.meta.url));

/** hack/bench images with images of a few files: that it measures, not what. */
describe('hack/bench images', function () {
  this.timeout(120_000);
  const dir = mkdtempSync(join(tmpdir(), 'bench-'));
  after(() => rmSync(dir, { recursive: true, force: true }));

  const bench = async (...flags: string[]): Promise<{ snapshotter: string; rows: PullRow[] }> => {
    const json = join(dir, 'rows.json');
    await execa(process.execPath, [MAIN, '--dir', dir, '--scale', '0.001', '--rounds', '1', '--json', json, ...flags]);
    return JSON.parse(readFileSync(json, 'utf8')) as { snapshotter: string; rows: PullRow[] };
  };

  it('measures cold and warm pulls of both, and the floor, and leaves only its images', async () => {
    const peer = findProgram('containerd') === undefined ? 'none' : 'containerd';
    const { rows } = await bench('--peer', peer, '--snapshotter', 'auto', '--only', 'pull-small-files');
    const suffixes = ['', '-warm', '-list-p99', '-stall'];
    expect(rows.map(({ name }) => name)).to.deep.equal(suffixes.map((suffix) => `pull-small-files${suffix}`));
    const [cold, warm, list, stall] = rows;
    for (const row of [cold, warm]) {
      expect(row?.gantry, row?.name).to.be.above(0);
      expect(row?.floor, row?.name).to.be.above(0);
    }
    if (peer === 'containerd') for (const row of [cold, warm, list]) expect(row?.ratio, row?.name).to.equal(row!.gantry! / row!.peer!);
    expect(list?.gantry).to.be.above(0);
    expect(stall).to.include({ samples: 1 });
    expect(readdirSync(join(dir, 'run'))).to.deep.equal([]);
  });

  it('refuses rows and snapshotters that it does not know', async () => {
    for (const flags of [
      ['--only', 'pull-nothing'],
      ['--snapshotter', 'zfs'],
    ]) {
      const { exitCode, stderr } = await execa(process.execPath, [MAIN, ...flags], { reject: false });
      expect(exitCode).to.equal(2);
      expect(stderr).to.include('usage: hack/bench images');
    }
  });
});
