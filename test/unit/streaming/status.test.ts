import { expect } from 'chai';
import type { ErrorKind } from '../../../src/base/errors.ts';
import { ClassifiedError } from '../../../src/base/errors.ts';
import { httpStatus, jsonStatus, plainStatus } from '../../../src/streaming/status.ts';

describe('streaming/status', () => {
  it('maps kinds to HTTP', () => {
    const expected: Array<[ErrorKind, number]> = [
      ['invalidArgument', 400],
      ['notFound', 404],
      ['failedPrecondition', 412],
      ['resourceExhausted', 429],
      ['internal', 500],
      ['unavailable', 503],
      ['deadlineExceeded', 504],
    ];
    for (const [kind, status] of expected) expect(httpStatus(new ClassifiedError(kind, 'x')), kind).to.equal(status);
    expect(httpStatus(new Error('foreign'))).to.equal(500);
  });

  it('tells success, exit codes and errors', () => {
    expect(plainStatus({ exitCode: 0 })).to.equal('');
    expect(plainStatus({ exitCode: 9 })).to.equal('command terminated with non-zero exit code: 9');
    expect(JSON.parse(jsonStatus({ exitCode: 0 }))).to.deep.equal({ metadata: {}, status: 'Success' });
    expect(JSON.parse(jsonStatus({ exitCode: 137 }))).to.deep.equal({
      metadata: {},
      status: 'Failure',
      message: 'command terminated with non-zero exit code: 137',
      reason: 'NonZeroExitCode',
      details: { causes: [{ reason: 'ExitCode', message: '137' }] },
    });
    expect(JSON.parse(jsonStatus({ error: new ClassifiedError('notFound', 'container "x" not found') }))).to.deep.equal({
      metadata: {},
      status: 'Failure',
      message: 'container "x" not found',
      reason: 'NotFound',
      code: 404,
    });
  });
});
