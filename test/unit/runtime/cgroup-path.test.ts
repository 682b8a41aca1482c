import { expect } from 'chai';
import { cgroupPathOf } from '../../../src/runtime/cgroup-path.ts';

const of = (cgroupsPath: unknown): string | undefined => cgroupPathOf({ linux: { cgroupsPath } });

describe('cgroupPathOf', () => {
  it('is the path itself with cgroupfs', () => {
    expect(of('/kubepods/burstable/podX/abc')).to.equal('/kubepods/burstable/podX/abc');
    expect(of('/kubepods//podX/abc/')).to.equal('/kubepods/podX/abc');
  });

  it('is the unit with systemd', () => {
    expect(of('kubepods-burstable-podX.slice:gantry:abc')).to.equal(
      '/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podX.slice/gantry-abc.scope',
    );
    expect(of('-.slice::abc')).to.equal('/abc.scope');
  });

  it('is unknown when the runtime decides, and never the root', () => {
    for (const path of [undefined, '', 'relative/path', '/', '//', '/..', 7]) expect(of(path), String(path)).to.equal(undefined);
    expect(cgroupPathOf(null)).to.equal(undefined);
    expect(cgroupPathOf({ linux: null })).to.equal(undefined);
  });
});
