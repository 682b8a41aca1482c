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

  it('ends the stream of a subscriber that falls behind, counts it, and forgets it', async () => {
    const bus = new Bus<number>();
    using slow = bus.subscribe(new AbortController().signal);
    for (let event = 0; event < 5000; event++) bus.publish(event);
    let seen = 0;
    for await (const _ of slow) seen++;
    expect(slow.overflowed).to.equal(true);
    expect(seen).to.equal(4096);
    expect(bus.dropped).to.equal(1);
    expect(bus.subscribers).to.equal(0);
  });
});
