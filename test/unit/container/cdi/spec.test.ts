import { expect } from 'chai';
import fc from 'fast-check';
import { parseCdiSpec, parseDeviceName } from '../../../../src/container/cdi/spec.ts';

const edits = { env: ['A=1'] };
const spec = (change: object = {}): object => ({
  cdiVersion: '0.3.0',
  kind: 'vendor.com/gpu',
  devices: [{ name: 'one', containerEdits: edits }],
  ...change,
});
const withEdits = (containerEdits: object, cdiVersion = '1.1.0'): object =>
  spec({ cdiVersion, devices: [{ name: 'one', containerEdits }] });
const refusal = (value: unknown): string => {
  try {
    parseCdiSpec(value);
  } catch (error) {
    return (error as Error).message;
  }
  throw new Error(`it was accepted: ${JSON.stringify(value)}`);
};

describe('container/cdi/spec', () => {
  it('reads every field of 1.1.0', () => {
    const everything = {
      env: ['A=1', 'B='],
      deviceNodes: [
        { path: '/dev/x' },
        { path: '/dev/y', hostPath: '/dev/real', type: 'c', major: 1, minor: 3, fileMode: 0o660, permissions: 'rw', uid: 5, gid: 6 },
      ],
      netDevices: [{ hostInterfaceName: 'eth1', name: 'net1' }],
      mounts: [{ hostPath: '/lib/x', containerPath: '/usr/lib/x', type: 'bind', options: ['ro', 'rbind'] }],
      hooks: [{ hookName: 'createContainer', path: '/usr/bin/hook', args: ['hook', 'x'], env: ['C=3'], timeout: 5 }],
      intelRdt: { closID: 'guaranteed', l3CacheSchema: 'L3:0=f', memBwSchema: 'MB:0=20', schemata: ['L3:0=f'], enableMonitoring: true },
      additionalGids: [44, 0],
    };
    const parsed = parseCdiSpec({ ...withEdits(everything), annotations: { a: 'b' }, containerEdits: edits });
    expect(parsed.kind).to.equal('vendor.com/gpu');
    expect(parsed.devices.get('one')).to.deep.equal(everything);
    expect(parsed.edits.env).to.deep.equal(['A=1']);
  });

  it('takes null for absent and a number for a name, as YAML files have them', () => {
    expect([
      ...parseCdiSpec(
        spec({ cdiVersion: 'v0.5.0', annotations: null, containerEdits: null, devices: [{ name: 0, containerEdits: edits }] }),
      ).devices.keys(),
    ]).to.deep.equal(['0']);
  });

  it('names the field that is wrong', () => {
    const node = (change: object): object => withEdits({ deviceNodes: [{ path: '/dev/x', ...change }] });
    const hook = (change: object): object => withEdits({ hooks: [{ hookName: 'poststop', path: '/x', ...change }] });
    const cases: Array<[unknown, string]> = [
      [null, 'the file: is not an object'],
      [[], 'the file: is not an object'],
      [{}, 'cdiVersion: is required'],
      [spec({ cdiVersion: 1 }), 'cdiVersion: is not a string'],
      [spec({ cdiVersion: '2.0.0' }), 'cdiVersion: "2.0.0" is not a version'],
      [spec({ kind: 'gpu' }), 'kind: "gpu" is not vendor/class'],
      [spec({ kind: 'vendor.com/gpu/x' }), 'kind:'],
      [spec({ kind: '-v/gpu' }), 'kind:'],
      [spec({ devices: [] }), 'devices: must not be empty'],
      [spec({ devices: {} }), 'devices: is not a list'],
      [spec({ devices: [{ name: 'a b', containerEdits: edits }] }), 'devices[0].name: "a b" is not a device name'],
      [
        spec({
          devices: [
            { name: 'a', containerEdits: edits },
            { name: 'a', containerEdits: edits },
          ],
        }),
        'devices[1].name: "a" is there twice',
      ],
      [spec({ devices: [{ name: 'a' }] }), 'devices[0].containerEdits: is required'],
      [spec({ extra: 1 }), 'extra: is not a field that is known'],
      [withEdits({ envs: [] }), 'devices[0].containerEdits.envs: is not a field that is known'],
      [withEdits({ env: ['=x'] }), 'devices[0].containerEdits.env: "=x" is not NAME=value'],
      [withEdits({ env: [1] }), 'devices[0].containerEdits.env[0]: is not a string'],
      [node({ path: 'dev/x' }), 'devices[0].containerEdits.deviceNodes[0].path: "dev/x" is not an absolute path'],
      [node({ type: 'x' }), 'deviceNodes[0].type:'],
      [node({ permissions: 'rwx' }), 'deviceNodes[0].permissions:'],
      [node({ major: -1 }), 'deviceNodes[0].major: is not a number'],
      [node({ uid: 2 ** 32 }), 'deviceNodes[0].uid: is not a number'],
      [node({ fileMode: '0660' }), 'deviceNodes[0].fileMode: is not a number'],
      [withEdits({ mounts: [{ hostPath: '', containerPath: '/x' }] }), 'mounts[0].hostPath: must not be empty'],
      [withEdits({ mounts: [{ hostPath: '/x', containerPath: 'x' }] }), 'mounts[0].containerPath:'],
      [hook({ hookName: 'preStart' }), 'hooks[0].hookName: is not one of'],
      [hook({ path: 'x' }), 'hooks[0].path:'],
      [hook({ timeout: 0 }), 'hooks[0].timeout: must be greater than zero'],
      [withEdits({ intelRdt: { closID: '../x' } }), 'intelRdt.closID:'],
      [withEdits({ netDevices: [{ hostInterfaceName: 'eth0' }] }), 'netDevices[0].name: is required'],
    ];
    for (const [value, words] of cases) expect(refusal(value)).to.contain(words);
  });

  it('refuses what is newer than the version that the file names', () => {
    const cases: Array<[string, string, object]> = [
      ['0.4.0', '0.3.0', { mounts: [{ hostPath: '/a', containerPath: '/a', type: 'bind' }] }],
      ['0.5.0', '0.4.0', { deviceNodes: [{ path: '/a', hostPath: '/b' }] }],
      ['0.7.0', '0.6.0', { additionalGids: [1] }],
      ['0.7.0', '0.6.0', { intelRdt: { closID: 'x' } }],
      ['1.1.0', '1.0.0', { intelRdt: { schemata: ['x'] } }],
      ['1.1.0', '1.0.0', { netDevices: [{ hostInterfaceName: 'a', name: 'b' }] }],
    ];
    for (const [enough, tooOld, containerEdits] of cases) {
      parseCdiSpec(withEdits(containerEdits, enough));
      expect(refusal(withEdits(containerEdits, tooOld))).to.contain(`needs cdiVersion ${enough}, the file has ${tooOld}`);
    }
    expect(refusal(spec({ cdiVersion: '0.4.0', devices: [{ name: '0', containerEdits: edits }] }))).to.contain('needs cdiVersion 0.5.0');
    expect(refusal(spec({ cdiVersion: '0.5.0', kind: 'vendor.com/gpu.x' }))).to.contain('needs cdiVersion 0.6.0');
    expect(refusal(spec({ cdiVersion: '0.5.0', annotations: { a: 'b' } }))).to.contain('needs cdiVersion 0.6.0');
  });

  it('says in words what is wrong with any content', () => {
    fc.assert(
      fc.property(fc.jsonValue(), fc.constantFrom('', 'devices', 'containerEdits', 'kind', 'annotations'), (value, key) => {
        try {
          parseCdiSpec(key === '' ? value : spec({ [key]: value }));
        } catch (error) {
          expect(error).to.be.instanceOf(Error);
          expect((error as Error).message).to.match(/: (?:is|must|needs|".*") ?/s);
        }
      }),
    );
  });

  it('takes a full name apart', () => {
    expect(parseDeviceName('vendor.com/gpu=0')).to.deep.equal({ kind: 'vendor.com/gpu', device: '0' });
    expect(parseDeviceName('nvidia.com/gpu=GPU-1:2')).to.deep.equal({ kind: 'nvidia.com/gpu', device: 'GPU-1:2' });
    for (const text of [
      '',
      'gpu',
      'vendor.com/gpu',
      'vendor.com/gpu=',
      'vendor.com=x',
      'vendor.com/gpu=a,b',
      'v/c=a\n',
      '../x/c=a',
      'v/c=a=b',
    ])
      expect(parseDeviceName(text), text).to.equal(undefined);
  });
});
