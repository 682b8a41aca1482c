import { expect } from 'chai';
import { newOp } from '../../../src/base/op.ts';
import { discoverFeatures, NO_FEATURES, onKernel, parseFeatures, parseTraits } from '../../../src/runtime/features.ts';

describe('runtime features', () => {
  it('finds recursive read-only mounts, user namespaces and seccomp', () => {
    const linux = { namespaces: ['user', 'pid'], mountExtensions: { idmap: { enabled: true } } };
    const of = (seccomp: object, annotations = {}): object =>
      parseFeatures(JSON.stringify({ mountOptions: ['ro', 'rro'], linux: { ...linux, ...seccomp }, annotations }));
    const all = { recursiveReadOnlyMounts: true, userNamespaces: true, seccomp: true };
    expect(of({ seccomp: { enabled: true } })).to.deep.equal(all);
    expect(of({}), 'a runtime that says nothing of seccomp has it').to.deep.equal(all);
    expect(of({ seccomp: { enabled: false } })).to.deep.equal({ ...all, seccomp: false });
    expect(of({}, { 'org.opencontainers.runc.version': '1.4.3' }), 'runc without libseccomp').to.deep.equal({ ...all, seccomp: false });
  });

  it('counts on nothing that is not said (runc 1.1 knows no idmap)', () => {
    const runc11 = JSON.stringify({ mountOptions: ['ro', 'rro'], linux: { namespaces: ['user'] } });
    expect(parseFeatures(runc11)).to.deep.equal({ recursiveReadOnlyMounts: true, userNamespaces: false, seccomp: true });
    for (const text of ['', 'unknown command features', 'null', '3', '{}', '{"mountOptions":"rro"}']) {
      expect(parseFeatures(text), text).to.deep.equal({ recursiveReadOnlyMounts: false, userNamespaces: false, seccomp: true });
    }
  });

  it('counts on no more than the kernel can', () => {
    const all = { recursiveReadOnlyMounts: true, userNamespaces: true, seccomp: true };
    expect(onKernel(all, '6.18.44-x')).to.deep.equal(all);
    expect(onKernel(all, '5.12.0')).to.deep.equal(all);
    expect(onKernel(all, '5.4.0')).to.deep.equal({ ...all, recursiveReadOnlyMounts: false, userNamespaces: false });
    expect(onKernel({ ...all, userNamespaces: false }, '6.1.0')).to.deep.equal({ ...all, userNamespaces: false });
  });
});

describe('discoverFeatures', () => {
  it('tells a runtime without features from one that did not answer', async () => {
    expect(await discoverFeatures(newOp('features', { timeoutMs: 5000 }), ['false'])).to.deep.equal(NO_FEATURES);
    expect(await discoverFeatures(newOp('features', { timeoutMs: 5000 }), ['/no/such/runtime'])).to.equal(undefined);
    expect(await discoverFeatures(newOp('features', { timeoutMs: 100 }), ['sh', '-c', 'sleep 60'])).to.equal(undefined);
  });
});

describe('parseTraits', () => {
  it('tells the programs apart by --version', () => {
    expect(parseTraits('runc version 1.1.5+ds1\ncommit: x\n')).to.include({ program: 'runc', version: '1.1.5+ds1', subCgroups: 'v1+v2' });
    expect(parseTraits('crun version 1.8.1\n')).to.include({ program: 'crun', subCgroups: 'v2', hostProcesses: true });
    expect(parseTraits('runsc version release-2022\n')).to.include({ program: 'runsc', hostProcesses: false, subCgroups: 'none' });
    expect(parseTraits('')).to.include({ program: 'unknown', version: '', hostProcesses: true, subCgroups: 'none' });
  });
});
