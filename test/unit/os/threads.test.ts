import { expect } from 'chai';
import { getPriority } from 'node:os';
import { Threads } from '../../../src/os/threads.ts';

describe('os/threads', () => {
  it('yields to the starter again after it told it something', async () => {
    const own = getPriority();
    const thread = new Threads(new URL('../../lib/polite-worker', import.meta.url), 1).take();
    try {
      for (let n = 0; n < 3; n++) {
        const answer = new Promise((resolve) => thread.listen(resolve));
        thread.post('how?');
        expect(await answer).to.equal(10);
      }
      expect(getPriority()).to.equal(own);
    } finally {
      thread.stop();
      await thread.ended;
    }
  });

  it('does a job after another on one thread', async () => {
    const threads = new Threads(new URL('../../lib/polite-worker', import.meta.url), 1);
    const first = threads.take();
    first.release();
    const second = threads.take();
    const answer = new Promise((resolve) => second.listen(resolve));
    second.post('how?');
    expect(await answer).to.equal(10);
    second.stop();
    expect(await second.ended).to.equal(undefined);
  });
});
