import { expect } from 'chai';
import { expectShape } from '../../../src/base/shape.ts';

describe('base/shape (R6)', () => {
  const value = { id: 'a', list: [], inner: { at: '12', more: {} }, count: 0 };

  it('accepts what has every field, whatever else it has', () => {
    expectShape(value, { id: 'string', list: 'array', 'inner.at': 'digits', 'inner.more': 'object', count: 'number' });
  });

  for (const [why, fields, path] of [
    ['is missing', { 'inner.none': 'string' }, 'inner.none'],
    ['is below nothing', { 'none.at.all': 'string' }, 'none.at.all'],
    ['is of another type', { id: 'string', list: 'object' }, 'list'],
    ['is a number where digits belong', { count: 'digits' }, 'count'],
    ['has other characters than digits', { id: 'digits' }, 'id'],
  ] as const) {
    it(`names the field that ${why}`, () => {
      expect(() => expectShape(value, fields)).to.throw(path);
    });
  }

  it('accepts nothing that is no object', () => {
    for (const bad of [null, undefined, 7, 'text']) expect(() => expectShape(bad, { id: 'string' })).to.throw('id');
  });
});
