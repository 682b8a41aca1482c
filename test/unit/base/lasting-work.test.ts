import { expect } from 'chai';
import { setTimeout as sleep } from 'node:timers/promises';
import { ClassifiedError } from '../../../src/base/errors.ts';
import { LastingWork } from '../../../src/base/lasting-work.ts';
import { newOp } from '../../../src/base/op.ts';

const failureOf = (promise: Promise<unknown>): Promise<unknown> =>
  promise.then(
    () => undefined,
    (error: unknown) => error,
  );

describe('base/lasting-work (R1, R3)', () => {
  it('is one run for all who come meanwhile, and begins anew for who comes later', async () => {
    const works = new LastingWork();
    let runs = 0;
    const work = async (): Promise<void> => {
      runs++;
      await sleep(20);
    };
    await Promise.all(Array.from({ length: 20 }, () => works.run(newOp('stop'), 'pod', work)));
    expect([runs, works.size, works.get('pod')]).to.deep.equal([1, 0, undefined]);
    await works.run(newOp('stop'), 'pod', work);
    expect(runs).to.equal(2);
  });

  it('goes on when its clients have gone; each is told where it stood', async () => {
    const works = new LastingWork();
    const client = new AbortController();
    let ended = false;
    const work = works.run(newOp('stop', { signal: client.signal }), 'pod', async (own) => {
      own.span.stage('quiesce');
      await sleep(60);
      ended = !own.signal.aborted;
    });
    const late = failureOf(works.run(newOp('stop', { timeoutMs: 20 }), 'pod', () => Promise.reject(new Error('never run'))));
    client.abort();
    expect(await failureOf(work)).to.have.property('kind', 'cancelled');
    expect(String(await late)).to.match(/at stage quiesce/);
    await works.get('pod');
    expect(ended).to.equal(true);
  });

  it('tells its failure to all of them, and nobody when all have gone; a client that is over begins nothing', async () => {
    const works = new LastingWork();
    const fails = async (): Promise<void> => {
      await sleep(20);
      throw new ClassifiedError('unavailable', 'not now');
    };
    const told = await Promise.all([1, 2].map(() => failureOf(works.run(newOp('stop'), 'pod', fails))));
    expect(told.map(String)).to.deep.equal(Array(2).fill('ClassifiedError: not now'));
    await failureOf(works.run(newOp('stop', { timeoutMs: 1 }), 'pod', fails));
    await sleep(40);
    expect(works.size).to.equal(0);
    await failureOf(works.run(newOp('stop', { signal: AbortSignal.abort() }), 'pod', fails));
    expect(works.size).to.equal(0);
  });
});
