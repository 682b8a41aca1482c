import { expect } from 'chai';
import { setTimeout as sleep } from 'node:timers/promises';
import { chainIdOf, digestOf, isDigest, parseDigest } from '../../../src/base/digest.ts';
import { ClassifiedError, errnoOf, invalidArgument, kindOf, messageOf, wrap } from '../../../src/base/errors.ts';
import { isId, newId } from '../../../src/base/ids.ts';
import { detached, newOp, orOver, within } from '../../../src/base/op.ts';

describe('base/errors', () => {
  it('keeps the kind through a wrap and has no numeric code', () => {
    const error = wrap('create container c', new ClassifiedError('notFound', 'image "x" not found'));
    expect(error.kind).to.equal('notFound');
    expect(error.message).to.equal('create container c: image "x" not found');
    expect(error).to.not.have.property('code');
    expect(kindOf(new Error('x'))).to.equal('internal');
    expect(kindOf(AbortSignal.abort().reason)).to.equal('cancelled');
    expect(invalidArgument('config.metadata.name', 'must not be empty').message).to.equal('config.metadata.name: must not be empty');
    expect(messageOf(new AggregateError([new Error('a'), new Error('b')]))).to.equal('a; b');
    expect(errnoOf(Object.assign(new Error('x'), { code: 'ENOENT' }))).to.equal('ENOENT');
  });
});

describe('base/op', () => {
  it('never lengthens a deadline within, and outlives its request when detached', async () => {
    const op = newOp('pull', { timeoutMs: 20 });
    expect(within(op, 1000).deadlineMs).to.equal(op.deadlineMs);
    const free = detached(op, 1000);
    const error = await orOver(op, new Promise(() => {})).catch((e: unknown) => e);
    expect(kindOf(error)).to.equal('deadlineExceeded');
    expect(free.signal.aborted).to.equal(false);
    expect(op.signal.aborted).to.equal(true);
  });

  it('hears how work ends that an operation no longer waits for', async () => {
    const unheard: unknown[] = [];
    const listener = (reason: unknown): unknown => unheard.push(reason);
    const others = process.listeners('unhandledRejection');
    process.removeAllListeners('unhandledRejection').on('unhandledRejection', listener);
    try {
      const { promise, reject } = Promise.withResolvers<void>();
      const error = await orOver(newOp('exec', { signal: AbortSignal.abort() }), promise).catch((e: unknown) => e);
      expect(kindOf(error)).to.equal('cancelled');
      reject(new Error('the runtime did not start the process'));
      await sleep(10);
      expect(unheard).to.deep.equal([]);
    } finally {
      process.off('unhandledRejection', listener);
      for (const other of others) process.on('unhandledRejection', other);
    }
  });

  it('takes timeouts that no timer can wait', async () => {
    const month = newOp('stop', { timeoutMs: 30 * 86_400_000 });
    const year = within(newOp('stop', { timeoutMs: 365 * 86_400_000 }), 2 ** 40);
    await sleep(20);
    expect([month.signal.aborted, year.signal.aborted]).to.deep.equal([false, false]);
  });
});

describe('base/digest and ids', () => {
  it('accepts only lower-case sha256', () => {
    const digest = digestOf('x');
    expect(isDigest(digest)).to.equal(true);
    expect(isDigest(digest.toUpperCase())).to.equal(false);
    expect(() => parseDigest('sha512:00', 'layer')).to.throw(ClassifiedError, 'layer: "sha512:00" is not a sha256 digest');
    expect(chainIdOf(undefined, digest)).to.equal(digest);
    expect(chainIdOf(digest, digest)).to.equal(digestOf(`${digest} ${digest}`));
    expect(isId(newId())).to.equal(true);
  });
});
