import { join } from 'node:path';
import { expect } from 'chai';
import { countsOf, specsOf, together } from '../../critest/junit.ts';
import { parsePlan, readPlan, skipsHere } from '../../critest/plan.ts';

describe('critest.yaml', () => {
  it('the one of this repository gives a reason for every entry', () => {
    const plan = readPlan(join(import.meta.dirname, '../../../critest.yaml'));
    expect(plan.floor).to.be.greaterThan(0);
    for (const { match, reason } of plan.skip) expect(reason, match).to.have.length.greaterThan(10);
  });

  it('reads floor, options and entries', () => {
    const text =
      "# c\nfloor: 7\noptions:\n  - -x=1\nskip:\n  - match: 'a: b'\n    reason: why\n  - match: c\n    reason: because\n    unlessPath: /\n";
    const plan = parsePlan(text);
    expect(plan).to.deep.equal({
      floor: 7,
      options: ['-x=1'],
      skip: [
        { match: 'a: b', reason: 'why' },
        { match: 'c', reason: 'because', unlessPath: '/' },
      ],
    });
    expect(skipsHere(plan).map(({ match }) => match)).to.deep.equal(['a: b']);
  });

  it('refuses what it does not know, by line', () => {
    expect(() => parsePlan('floor: 1\nflor: 2\n')).to.throw('critest.yaml:2');
    expect(() => parsePlan('floor: many\n')).to.throw('critest.yaml:1');
    expect(() => parsePlan('skip:\n')).to.throw('no floor');
    expect(() => parsePlan('floor: 1\nskip:\n  - match: a\n')).to.throw('reason');
    expect(() => parsePlan('floor: 1\nskip:\n  - match: a\n    reason: b\n    colour: c\n')).to.throw('colour');
    expect(() => parsePlan("floor: 1\nskip:\n  - match: '('\n    reason: b\n")).to.throw();
  });
});

describe("critest's JUnit report", () => {
  const report = `<testsuites><testsuite>
    <testcase name="[BeforeSuite]" classname="x" status="passed" time="0"></testcase>
    <testcase name="[It] a &#39;b&#39; &lt;c&gt;" classname="x" status="passed" time="1"><system-err>&gt; said</system-err></testcase>
    <testcase name="[It] left out" classname="x" status="skipped" time="0"><skipped message="skipped - why"></skipped></testcase>
    <testcase name="[It] benchmark about x" classname="x" status="skipped" time="0"><skipped message="skipped"></skipped></testcase>
    <testcase name="[It] wrong" classname="x" status="failed" time="0"><failure message="it &amp; that" type="failed">text</failure></testcase>
    <testcase name="[It] late" classname="x" status="timedout" time="0"><error message="too late" type="timedout"></error></testcase>
  </testsuite></testsuites>`;

  it('counts specs, not hooks and not benchmarks that did not run', () => {
    const specs = specsOf(report);
    expect(specs.map(({ name, status }) => `${name}: ${status}`)).to.deep.equal([
      "a 'b' <c>: passed",
      'left out: skipped',
      'wrong: failed',
      'late: failed',
    ]);
    expect(specs[2]?.message).to.equal('it & that');
    expect(specs[3]?.message).to.equal('too late');
    expect(countsOf(specs)).to.deep.equal({ passed: 1, failed: 2, skipped: 1 });
  });

  it('puts two runs together: a skip gives way, a failure does not', () => {
    const specs = (...all: Array<[string, 'passed' | 'failed' | 'skipped']>) =>
      all.map(([name, status]) => ({ name, status, message: '' }));
    const first = specs(['a', 'passed'], ['b', 'skipped'], ['c', 'skipped'], ['d', 'failed'], ['e', 'passed'], ['f', 'skipped']);
    const second = specs(
      ['a', 'skipped'],
      ['b', 'passed'],
      ['c', 'failed'],
      ['d', 'passed'],
      ['e', 'failed'],
      ['f', 'skipped'],
      ['g', 'passed'],
    );
    expect(together(first, second).map(({ status }) => status)).to.deep.equal([
      'passed',
      'passed',
      'failed',
      'failed',
      'failed',
      'skipped',
    ]);
  });

  it('without a spec it is no report', () => {
    expect(() => specsOf('<testsuites></testsuites>')).to.throw('no specs');
  });
});
