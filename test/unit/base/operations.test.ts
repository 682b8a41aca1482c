import { expect } from 'chai';
import { setTimeout as sleep } from 'node:timers/promises';
import { ClassifiedError } from '../../../src/base/errors.ts';
import { newOp } from '../../../src/base/op.ts';
import type { Work } from '../../../src/base/operations.ts';
import { Operations } from '../../../src/base/operations.ts';

function counted(workMs: number): Work<string> & { started: number; collected: number; abandoned: number } {
  const counts = {
    started: 0,
    collected: 0,
    abandoned: 0,
    start: async () => {
      counts.started++;
      await sleep(workMs);
      return `result ${counts.started}`;
    },
    collect: async () => {
      counts.collected++;
    },
    abandon: async () => {
      counts.abandoned++;
    },
  };
  return counts;
}

describe('base/operations (R1)', () => {
  it('lets retries join the operation in flight: one start, one collect', async () => {
    const operations = new Operations<string>();
    const work = counted(30);
    const results = await Promise.all(Array.from({ length: 20 }, () => operations.run(newOp('run'), 'pod', work)));
    expect(new Set(results)).to.deep.equal(new Set(['result 1']));
    expect(work).to.include({ started: 1, collected: 1, abandoned: 0 });
    expect(operations.list()).to.deep.equal([]);
  });

  it('goes on when its client has gone, and gives the result to the retry', async () => {
    const operations = new Operations<string>();
    const work = counted(60);
    const error = await operations.run(newOp('run pod sandbox', { timeoutMs: 10 }), 'pod', work).catch((e: unknown) => e);
    expect(error).to.be.instanceOf(ClassifiedError).with.property('kind', 'deadlineExceeded');
    expect((error as Error).message).to.match(/at stage start after \d+ ms/);
    expect(operations.working).to.equal(1);
    await sleep(80);
    expect(work.collected).to.equal(0);
    expect(operations.list().map(({ key }) => key)).to.deep.equal(['pod']);
    expect(operations.working).to.equal(0);
    expect(await operations.run(newOp('run'), 'pod', work)).to.equal('result 1');
    expect(work).to.include({ started: 1, collected: 1 });
  });

  it('forgets a failure once it is told, so that a retry begins anew', async () => {
    const operations = new Operations<string>();
    let tries = 0;
    const work: Work<string> = {
      start: async () => {
        if (++tries === 1) throw new ClassifiedError('unavailable', 'no address left');
        return 'second';
      },
      collect: async () => {},
      abandon: async () => {},
    };
    expect(await operations.run(newOp('run'), 'pod', work).catch((e: Error) => e.message)).to.equal('no address left');
    expect(await operations.run(newOp('run'), 'pod', work)).to.equal('second');
  });

  it('tears down what nobody collects', async () => {
    const operations = new Operations<string>({ minPatienceMs: 20 });
    const work = counted(20);
    await operations.run(newOp('run', { timeoutMs: 5 }), 'pod', work).catch(() => undefined);
    await sleep(120);
    expect(work).to.include({ started: 1, collected: 0, abandoned: 1 });
    expect(operations.list()).to.deep.equal([]);
  });

  it('lets who comes during the undo wait for its end and begin anew', async () => {
    const operations = new Operations<string>({ minPatienceMs: 10 });
    const order: string[] = [];
    const { promise: undoing, resolve: undoBegins } = Promise.withResolvers<void>();
    const work: Work<string> = {
      start: async () => {
        order.push('start');
        await sleep(10);
        return `result ${order.length}`;
      },
      collect: async () => {},
      abandon: async () => {
        undoBegins();
        await sleep(50);
        order.push('undone');
      },
    };
    await operations.run(newOp('run', { timeoutMs: 5 }), 'pod', work).catch(() => undefined);
    await undoing;
    await Promise.all([1, 2].map(() => operations.run(newOp('run'), 'pod', work)));
    expect(order).to.deep.equal(['start', 'undone', 'start']);
  });

  it('abandons a result that can not be collected, and begins anew', async () => {
    const operations = new Operations<string>();
    const work = counted(1);
    const failing = { ...work, start: work.start, collect: () => Promise.reject(new Error('no space')), abandon: work.abandon };
    expect(await operations.run(newOp('run'), 'pod', failing).catch((error: Error) => error.message)).to.equal('no space');
    expect(await operations.run(newOp('run'), 'pod', work)).to.equal('result 2');
    expect(work).to.include({ started: 2, collected: 1, abandoned: 1 });
    expect(operations.list()).to.deep.equal([]);
  });
});
