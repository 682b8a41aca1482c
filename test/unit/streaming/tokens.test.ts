import { expect } from 'chai';
import { ClassifiedError } from '../../../src/base/errors.ts';
import { Tokens } from '../../../src/streaming/tokens.ts';

describe('streaming/tokens', () => {
  let nowMs = 0;
  const create = (max: number): Tokens<string> => new Tokens<string>(max, 60_000, () => nowMs);

  it('gives a value once', () => {
    const tokens = create(10);
    const token = tokens.add('a');
    expect(token).to.match(/^[A-Za-z0-9_-]{24}$/);
    expect(tokens.take(token)).to.equal('a');
    expect(tokens.take(token)).to.equal(undefined);
    expect(tokens.take('')).to.equal(undefined);
    expect(tokens.size).to.equal(0);
  });

  it('forgets after a minute', () => {
    const tokens = create(10);
    const old = tokens.add('a');
    nowMs += 59_999;
    const young = tokens.add('b');
    nowMs += 1;
    expect(tokens.take(old)).to.equal(undefined);
    expect(tokens.take(young)).to.equal('b');
  });

  it('is bounded, and has room again when old ones have gone', () => {
    const tokens = create(2);
    tokens.add('a');
    tokens.add('b');
    expect(() => tokens.add('c'))
      .to.throw(ClassifiedError, /2 streaming urls/)
      .with.property('kind', 'resourceExhausted');
    nowMs += 60_000;
    expect(tokens.add('c')).to.be.a('string');
    expect(tokens.size).to.equal(1);
  });

  it('never gives the same token twice', () => {
    const tokens = create(10_000);
    expect(new Set(Array.from({ length: 10_000 }, () => tokens.add('x'))).size).to.equal(10_000);
  });
});
