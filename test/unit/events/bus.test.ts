import { expect } from 'chai';
import { Bus } from '../../../src/events/bus.ts';

describe('events/bus (R24)', () => {
  it('gives every subscriber every event in order, and ends with its signal', async () => {
    const bus = new Bus<number>();
    const abort = new AbortController();
    using one = bus.subscribe(abort.signal);
    using two = bus.subscribe(abort.signal);
    const read = async (events: AsyncIterable<number>): Promise<number[]> => {
      const seen: number[] = [];
      for await (const event of events) {
        seen.push(event);
        if (event === 2) abort.abort();
      }
      return seen;
    };
    const both = Promise.all([read(one), read(two)]);
    for (const event of [0, 1, 2]) bus.publish(event);
    expect(await both).to.deep.equal([
      [0, 1, 2],
      [0, 1, 2],
    ]);
  });

  it('ends every subscription when it closes, after what was queued', async () => {
    const bus = new Bus<number>();
    using early = bus.subscribe(new AbortController().signal);
    bus.publish(1);
    const reading = (async () => {
      const seen: number[] = [];
      for await (const event of early) seen.push(event);
      return seen;
    })();
    bus.publish(2);
    bus.close();
    expect(await reading).to.deep.equal([1, 2]);
  });

  const seenBy = async (events: AsyncIterable<number>): Promise<number> => {
    let seen = 0;
    for await (const _ of events) seen++;
    return seen;
  };

  it('ends the stream of a subscriber that falls behind, counts what it lost, holds nothing for it, and spares the others', async () => {
    const bus = new Bus<number>();
    const abort = new AbortController();
    using slow = bus.subscribe(new AbortController().signal);
    using quick = bus.subscribe(abort.signal);
    const events = quick[Symbol.asyncIterator]();
    for (let event = 0; event < 5000; event++) {
      bus.publish(event);
      expect((await events.next()).value).to.equal(event);
    }
    expect(slow.overflowed).to.equal(true);
    expect(await seenBy(slow)).to.equal(0);
    expect(bus.dropped).to.equal(4097);
    expect(bus.subscribers).to.equal(1);
    expect(quick.overflowed).to.equal(false);
    abort.abort();
    expect((await events.next()).done).to.equal(true);
  });

  it('counts bytes too; one event fits however large it is', async () => {
    const bus = new Bus<number>({ sizeOf: (size) => size, maxQueuedBytes: 100 });
    using one = bus.subscribe(new AbortController().signal);
    bus.publish(1000);
    const events = one[Symbol.asyncIterator]();
    expect((await events.next()).value).to.equal(1000);
    bus.publish(60);
    bus.publish(40);
    expect(one.overflowed).to.equal(false);
    bus.publish(1);
    expect(one.overflowed).to.equal(true);
    expect(bus.dropped).to.equal(3);
  });

  it('forgets a subscriber that goes', () => {
    const bus = new Bus<number>();
    bus.subscribe(new AbortController().signal)[Symbol.dispose]();
    expect(bus.subscribers).to.equal(0);
    bus.publish(1);
    expect(bus.dropped).to.equal(0);
  });
});
