import { expect } from 'chai';
import { setTimeout as sleep } from 'node:timers/promises';
import { KeyedLock } from '../../../src/base/keyed-lock.ts';
import { silentLogger } from '../../../src/base/log.ts';
import { SingleFlight } from '../../../src/base/single-flight.ts';
import { TaskSet } from '../../../src/base/task-set.ts';

describe('base/keyed-lock', () => {
  it('serves one key in order and others at the same time, and keeps nothing', async () => {
    const locks = new KeyedLock();
    const order: string[] = [];
    const work = async (key: string, name: string, ms: number): Promise<void> => {
      using _ = await locks.lock(key);
      await sleep(ms);
      order.push(name);
    };
    await Promise.all([work('a', 'a1', 20), work('a', 'a2', 0), work('b', 'b1', 5)]);
    expect(order).to.deep.equal(['b1', 'a1', 'a2']);
    expect(locks.size).to.equal(0);
  });

  it('is released by a holder that throws', async () => {
    const locks = new KeyedLock();
    const fails = async (): Promise<void> => {
      using _ = await locks.lock('a');
      throw new Error('no');
    };
    await fails().catch(() => undefined);
    using _ = await locks.lock('a');
    expect(locks.size).to.equal(1);
  });
});

describe('base/single-flight', () => {
  it('shares a run among callers and forgets it, failed or not', async () => {
    const flights = new SingleFlight<number>();
    let runs = 0;
    const work = async (): Promise<number> => {
      runs++;
      await sleep(5);
      if (runs === 1) throw new Error('first');
      return runs;
    };
    const both = await Promise.allSettled([flights.run('k', work), flights.run('k', work)]);
    expect(both.map(({ status }) => status)).to.deep.equal(['rejected', 'rejected']);
    expect(await flights.run('k', work)).to.equal(2);
    expect(flights.size).to.equal(0);
  });
});

describe('base/task-set', () => {
  it('drains work that was started while draining, and survives failures', async () => {
    const tasks = new TaskSet(silentLogger);
    let late = false;
    tasks.start('one', async () => {
      await sleep(5);
      tasks.start('two', async () => {
        await sleep(5);
        late = true;
      });
      throw new Error('logged');
    });
    await tasks.drain();
    expect(late).to.equal(true);
  });
});
