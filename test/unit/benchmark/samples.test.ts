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
    expect(table([row], 'containerd')).to.match(/^row .*\npod-up +ms +3\.00 .*0\.30x +3$/);
  });
});
