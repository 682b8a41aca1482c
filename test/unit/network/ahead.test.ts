import { expect } from 'chai';
import { allowsAhead } from '../../../src/network/ahead.ts';
import { parseConflist } from '../../../src/network/conflist.ts';

const IPAM = { ipam: { type: 'host-local' } };
const allows = (...plugins: object[]): boolean => allowsAhead(parseConflist(JSON.stringify({ cniVersion: '1.0.0', name: 'n', plugins })));

describe('network/ahead', () => {
  it('allows bridge and ptp with host-local, alone or before what looks at no pod', () => {
    expect(allows({ type: 'bridge', ...IPAM })).to.equal(true);
    expect(allows({ type: 'ptp', ...IPAM })).to.equal(true);
    const chained = ['loopback', 'firewall', 'tuning', 'portmap', 'bandwidth'].map((type) => ({ type }));
    expect(allows({ type: 'bridge', ...IPAM }, ...chained)).to.equal(true);
  });

  it('allows the capabilities that a pod asks for by host ports and annotations, and no other', () => {
    const capable = (capabilities: object): boolean =>
      allows({ type: 'bridge', ...IPAM, capabilities: {} }, { type: 'portmap', capabilities });
    expect(capable({ portMappings: true, bandwidth: true, ips: false })).to.equal(true);
    for (const name of ['ips', 'mac', 'dns', 'aliases', 'cgroupPath', 'io.kubernetes.cri.pod-annotations'])
      expect(capable({ portMappings: true, [name]: true }), name).to.equal(false);
  });

  it('refuses other plugins, other address management, and one of its own further down', () => {
    expect(allows({ type: 'bridge' })).to.equal(false);
    expect(allows({ type: 'bridge', ipam: { type: 'dhcp' } })).to.equal(false);
    expect(allows({ type: 'macvlan', ...IPAM })).to.equal(false);
    expect(allows({ type: 'portmap' })).to.equal(false);
    expect(allows({ type: 'bridge', ...IPAM }, { type: 'cilium-cni' })).to.equal(false);
    expect(allows({ type: 'bridge', ...IPAM }, { type: 'ptp', ...IPAM })).to.equal(false);
  });
});
