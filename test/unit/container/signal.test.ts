import { expect } from 'chai';
import { parseSignal } from '../../../src/container/signal.ts';
import { containerStatusView } from '../../../src/cri/view/container.ts';
import { containerRecord } from '../../lib/records.ts';

describe('container/signal', () => {
  it('reads names, numbers and both spellings of real-time signals', () => {
    const cases: Array<[string, number | undefined]> = [
      ['SIGTERM', 15],
      ['term', 15],
      ['9', 9],
      ['SIGRTMIN+3', 37],
      ['SIGRTMINPLUS3', 37],
      ['SIGRTMAX-2', 62],
      ['RTMAX', 64],
      ['', undefined],
      ['0', undefined],
      ['65', undefined],
      ['SIGNOPE', undefined],
      ['15; rm', undefined],
    ];
    for (const [text, number] of cases) expect(parseSignal(text), text).to.equal(number);
  });

  it('is told by the names of the CRI', () => {
    const name = (stopSignal: number): unknown => containerStatusView(containerRecord({ stopSignal })).stopSignal;
    expect(name(15)).to.equal('SIGTERM');
    expect(name(37)).to.equal('SIGRTMINPLUS3');
    expect(name(62)).to.equal('SIGRTMAXMINUS2');
  });
});
