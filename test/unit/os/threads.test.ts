import { expect } from 'chai';
import { getPriority } from 'node:os';
import type { Thread } from '../../../src/os/threads.ts';
import { Threads } from '../../../src/os/threads.ts';
import type { PoliteReply } from '../../lib/polite-worker.ts';

describe('os/threads', () => {
  const make = (): Threads => new Threads(new URL('../../lib/polite-worker', import.meta.url), 1);
  const asked = (thread: Thread): Promise<PoliteReply> =>
    new Promise((resolve) => {
      thread.listen((reply) => resolve(reply as PoliteReply));
      thread.post('how?');
    });

  it('yields to the starter again after it told it something', async () => {
    const own = getPriority();
    const thread = make().take();
    try {
      for (let n = 0; n < 3; n++) expect(await asked(thread)).to.include({ priority: 10 });
      expect(getPriority()).to.equal(own);
    } finally {
      thread.stop();
      expect(await thread.ended).to.equal(undefined);
    }
  });

  it('does a job after another on one thread, and has another for who comes meanwhile', async () => {
    const threads = make();
    const first = threads.take();
    const { threadId } = await asked(first);
    first.release();
    const second = threads.take();
    const third = threads.take();
    expect(await asked(second)).to.include({ threadId });
    expect((await asked(third)).threadId).to.not.equal(threadId);
    for (const thread of [second, third]) {
      thread.stop();
      expect(await thread.ended).to.equal(undefined);
    }
  });
});
