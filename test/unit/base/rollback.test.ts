import { expect } from 'chai';
import { newOp } from '../../../src/base/op.ts';
import { Rollback } from '../../../src/base/rollback.ts';

describe('base/rollback (R3)', () => {
  it('runs every step, last first, though one fails and the request is dead', async () => {
    const ran: string[] = [];
    const dead = newOp('run', { signal: AbortSignal.abort() });
    const failing = async (): Promise<void> => {
      await using rollback = new Rollback(dead);
      rollback.add('first', (op) => ran.push(`first ${op.signal.aborted}`));
      rollback.add('second', () => {
        throw new Error('no');
      });
      rollback.add('third', async () => ran.push('third'));
      throw new Error('cause');
    };
    expect(await failing().catch((e: Error) => e.message)).to.equal('cause');
    expect(ran).to.deep.equal(['third', 'first false']);
  });

  it('runs nothing once committed', async () => {
    let ran = false;
    await (async () => {
      await using rollback = new Rollback(newOp('run'));
      rollback.add('undo', () => (ran = true));
      rollback.commit();
    })();
    expect(ran).to.equal(false);
  });

  it('names the steps that failed', async () => {
    const rollback = new Rollback(newOp('run'));
    rollback.add('detach network', async () => {
      throw new Error('no');
    });
    await rollback[Symbol.asyncDispose]();
    expect(rollback.failed).to.deep.equal(['detach network']);
  });
});
