import { setTimeout as sleep } from 'node:timers/promises';
import { expect } from 'chai';
import type { Digest } from '../../../src/base/digest.ts';
import { Progress } from '../../../src/image/progress.ts';

const digest = (digit: string): Digest => `sha256:${digit.repeat(64)}` as Digest;

describe('image/progress', () => {
  it('tells of each layer what it is at, and of an ended pull for a second', async () => {
    const progress = new Progress();
    const { promise: end, resolve } = Promise.withResolvers<void>();
    const done = progress.track('a:1', async (pull) => {
      expect(progress.list()).to.have.length(1);
      expect(progress.list()[0]).to.deep.include({ image: 'a:1', state: 'resolving', layers: [] });
      pull.begin([
        { digest: digest('1'), sizeBytes: 10 },
        { digest: digest('2'), sizeBytes: 20 },
        { digest: digest('3'), sizeBytes: 30 },
      ]);
      progress.fetched(digest('2'), 7);
      pull.reached(2, 'unpacking');
      expect(progress.list()[0]?.layers.map(({ fetchedBytes, state }) => `${fetchedBytes} ${state}`)).to.deep.equal([
        '0 waiting',
        '7 fetching',
        '30 unpacking',
      ]);
      progress.fetchEnded(digest('2'));
      await end;
    });
    resolve();
    await done;
    expect(progress.list()[0]?.state).to.equal('pulled');
    await sleep(1100);
    expect(progress.list()).to.deep.equal([]);
  });

  it('keeps the words of a failure', async () => {
    const progress = new Progress();
    await progress.track('a:1', () => Promise.reject(new Error('no route'))).catch(() => undefined);
    expect(progress.list()[0]).to.deep.include({ state: 'failed', error: 'no route' });
  });
});
