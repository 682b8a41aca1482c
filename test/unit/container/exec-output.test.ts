import { expect } from 'chai';
import { fittedOutput, MAX_OUTPUT_BYTES } from '../../../src/container/exec-output.ts';

const NEITHER = { stdout: false, stderr: false };
const MARK = /\n\[output was cut here: gantry returns at most 16 MiB\]\n$/;

describe('container/exec-output', () => {
  const fitted = (stdoutBytes: number, stderrBytes: number, truncated = NEITHER) => {
    const result = { exitCode: 0, stdout: Buffer.alloc(stdoutBytes, 'o'), stderr: Buffer.alloc(stderrBytes, 'e'), truncated };
    const { stdout, stderr } = fittedOutput(result, 1000);
    return { sizes: [stdout.length, stderr.length], marked: [MARK.test(stdout.toString()), MARK.test(stderr.toString())] };
  };

  it('passes on what fits', () => {
    expect(fitted(0, 0)).to.deep.equal({ sizes: [0, 0], marked: [false, false] });
    expect(fitted(600, 400)).to.deep.equal({ sizes: [600, 400], marked: [false, false] });
    expect(fitted(1000, 0)).to.deep.equal({ sizes: [1000, 0], marked: [false, false] });
  });

  it('cuts the longer one, with a mark', () => {
    expect(fitted(1000, 10)).to.deep.equal({ sizes: [990, 10], marked: [true, false] });
    expect(fitted(10, 1000)).to.deep.equal({ sizes: [10, 990], marked: [false, true] });
    expect(fitted(900, 800)).to.deep.equal({ sizes: [500, 500], marked: [true, true] });
  });

  it('marks what was cut as it was read', () => {
    expect(fitted(1000, 0, { stdout: true, stderr: false })).to.deep.equal({ sizes: [1000, 0], marked: [true, false] });
    expect(fitted(1000, 1000, { stdout: true, stderr: true })).to.deep.equal({ sizes: [500, 500], marked: [true, true] });
  });

  it('fits into one message of 16 MiB', () => {
    const full = { exitCode: 0, stdout: Buffer.alloc(2 ** 24), stderr: Buffer.alloc(2 ** 24), truncated: { stdout: true, stderr: true } };
    const { stdout, stderr } = fittedOutput(full);
    expect(stdout.length + stderr.length).to.equal(MAX_OUTPUT_BYTES);
  });
});
