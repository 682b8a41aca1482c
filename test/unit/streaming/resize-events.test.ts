import { expect } from 'chai';
import { ResizeEvents } from '../../../src/streaming/command.ts';

describe('streaming: resize events', () => {
  const sizesOf = (...parts: Buffer[]): string[] => {
    const events = new ResizeEvents();
    const seen: string[] = [];
    events.onResize(({ width, height }) => seen.push(`${width}x${height}`));
    for (const part of parts) events.push(part);
    return seen;
  };

  it('are read however they are cut, and what is no size is passed over', () => {
    const text = Buffer.from('{"Width":80,"Height":24}{"Width":0,"Height":24}x}{"Width":81,"Height":25}\n');
    const sizes = ['80x24', '81x25'];
    expect(sizesOf(text)).to.deep.equal(sizes);
    expect(sizesOf(...Array.from(text, (byte) => Buffer.of(byte)))).to.deep.equal(sizes);
  });

  it('cost next to nothing when there are millions, and the last one counts', () => {
    const last = Buffer.from('{"Width":80,"Height":24}');
    const begunAt = performance.now();
    expect(sizesOf(Buffer.concat([Buffer.alloc(4 << 20, '}'), last]))).to.deep.equal(['80x24']);
    expect(sizesOf(Buffer.alloc(4 << 20, last)).at(-1)).to.equal('80x24');
    // 10 s when each of them is parsed.
    expect(performance.now() - begunAt).to.be.lessThan(1000);
  });
});
