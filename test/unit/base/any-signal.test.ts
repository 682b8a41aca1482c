import { setImmediate as turn, setTimeout as sleep } from 'node:timers/promises';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { expect } from 'chai';
import { anySignal } from '../../../src/base/any-signal.ts';
import { newOp, orOver, within } from '../../../src/base/op.ts';

const LONG_MS = 600_000;

describe('anySignal', () => {
  setFlagsFromString('--expose-gc');
  const gc = runInNewContext('gc') as () => void;
  const collect = async (): Promise<void> => {
    for (let round = 0; round < 3; round++) {
      await turn();
      gc();
    }
  };

  it('keeps no timeout of operations that are over', async () => {
    const made = await (async () => {
      const outers = Array.from({ length: 100 }, () => newOp('outer', { timeoutMs: LONG_MS }));
      for (const outer of outers) await orOver(within(within(outer, LONG_MS), LONG_MS), Promise.resolve());
      return outers.map(({ signal }) => new WeakRef(signal));
    })();
    await collect();
    expect(made.filter((each) => each.deref() !== undefined).length).to.be.at.most(2);
  });

  it('aborts at a timeout that only a listener waits for', async () => {
    const aborted = Promise.withResolvers<void>();
    (() => within(newOp('outer', { timeoutMs: LONG_MS }), 200).signal.addEventListener('abort', () => aborted.resolve()))();
    await collect();
    await Promise.race([aborted.promise, sleep(5000).then(() => expect.fail('nothing came'))]);
  });

  it('aborts at the timeout of a source of a source, which nobody holds', async () => {
    const inner = (() => anySignal([anySignal([AbortSignal.timeout(200), new AbortController().signal]), AbortSignal.timeout(LONG_MS)]))();
    await collect();
    await sleep(400);
    expect(inner.aborted).to.equal(true);
    expect((inner.reason as Error).name).to.equal('TimeoutError');
  });

  it('aborts with a source, and is aborted from the start by one that is', () => {
    const source = new AbortController();
    const result = anySignal([source.signal, AbortSignal.timeout(LONG_MS)]);
    expect(result.aborted).to.equal(false);
    source.abort();
    expect(result.aborted).to.equal(true);
    expect(anySignal([AbortSignal.timeout(LONG_MS), source.signal]).aborted).to.equal(true);
  });
});
