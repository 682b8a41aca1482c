import { expect } from 'chai';
import { rowOf, Samples, table } from '../../../hack/benchmark/samples.ts';

describe('hack/bench samples', () => {
  it('compares medians, and leaves out what was not measured', () => {
    const samples = new Samples();
    for (const value of [5, 1, 3]) samples.add('gantry', value);
    for (const value of [10, 6, 100]) samples.add('containerd', value);
    const row = rowOf('pod-up', 'ms', samples, 'containerd');
    expect(row).to.deep.include({ gantry: 3, peer: 10, floor: undefined, ratio: 0.3, samples: 3 });
    expect(rowOf('pod-up', 'ms', samples, 'none')).to.deep.include({ peer: undefined, ratio: undefined });
    expect(table([row], 'containerd')).to.match(/^row .*\npod-up +ms +3\.00 .*0\.30x +- +3$/);
  });

  it('compares 99th percentiles of a hundred figures or more', () => {
    const samples = new Samples();
    for (let value = 1; value <= 200; value++) {
      samples.add('gantry', value);
      samples.add('containerd', value < 190 ? value : 1000);
    }
    const row = rowOf('list-110', 'ms', samples, 'containerd');
    expect(row).to.deep.include({ gantryP99: 199, peerP99: 1000, ratioP99: 0.199, ratio: 1 });
    expect(table([row], 'containerd')).to.match(/1\.00x +0\.20x +200$/);
    samples.add('other', 1);
    expect(rowOf('list-110', 'ms', samples, 'other')).to.deep.include({ gantryP99: 199, peerP99: undefined, ratioP99: undefined });
  });
});
