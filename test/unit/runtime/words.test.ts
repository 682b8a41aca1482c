import { expect } from 'chai';
import fc from 'fast-check';
import { runtimeWords } from '../../../src/runtime/words.ts';

describe('runtimeWords', () => {
  it('reads logrus text, JSON log lines and plain text', () => {
    const text = 'time="2026-01-01T00:00:00Z" level=error msg="runc create failed: exec: \\"/nope\\": stat /nope: no such file"';
    expect(runtimeWords(text)).to.equal('runc create failed: exec: "/nope": stat /nope: no such file');
    expect(runtimeWords('{"msg":"container `x` does not exist","level":"error","time":"t"}')).to.equal('container `x` does not exist');
    expect(runtimeWords('starting container: no such file\n')).to.equal('starting container: no such file');
    expect(runtimeWords('2026-11-21T04:03:18.087902Z: executable file `/nope` not found\n')).to.equal('executable file `/nope` not found');
  });

  it('prefers errors to plain lines and those to warnings, and says nothing twice', () => {
    expect(runtimeWords('{"level":"warning","msg":"w"}\nplain\n{"level":"error","msg":"e"}\n{"level":"error","msg":"e"}')).to.equal('e');
    expect(runtimeWords('level=warning msg=careful\nplain')).to.equal('plain');
    expect(runtimeWords('level=warning msg=careful')).to.equal('careful');
    expect(runtimeWords('')).to.equal('');
  });

  it('takes whatever comes and stays short', () => {
    fc.assert(fc.property(fc.string(), (text) => runtimeWords(text).length <= 1027));
    expect(runtimeWords('{broken')).to.equal('{broken');
    expect(runtimeWords('x'.repeat(5000))).to.have.length(1027);
  });
});
