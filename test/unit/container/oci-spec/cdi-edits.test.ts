import { expect } from 'chai';
import type { CdiEdits } from '../../../../src/container/oci-spec/cdi-edits.ts';
import { mergedEdits, NO_EDITS, withCdi } from '../../../../src/container/oci-spec/cdi-edits.ts';
import type { HostDevice } from '../../../../src/container/oci-spec/devices.ts';
import { pauseSpec } from '../../../../src/container/oci-spec/pause.ts';
import type { OciSpec } from '../../../../src/container/oci-spec/spec-types.ts';
import { daemonFacts } from '../../../../src/container/facts.ts';

describe('container/oci-spec/cdi-edits', () => {
  let spec: OciSpec;
  before(async () => {
    const daemon = await daemonFacts();
    spec = pauseSpec({
      id: 'x',
      args: ['/x'],
      rootfsPath: '/r',
      namespaces: { network: {}, ipc: {}, uts: {}, pid: {} },
      userNamespace: undefined,
      cgroupsPath: '/c',
      annotations: {},
      seccomp: true,
      daemon,
    });
  });

  const edit = (change: Partial<CdiEdits>, devices: readonly HostDevice[] = [], from: OciSpec = spec): OciSpec =>
    withCdi(from, { ...NO_EDITS, ...change }, devices);
  const node = (change: Partial<HostDevice> = {}): HostDevice => ({
    path: '/dev/x',
    type: 'c',
    major: 240,
    minor: 1,
    fileMode: 0o660,
    permissions: 'rw',
    ...change,
  });

  it('changes nothing where nothing is asked for, and never what it was given', () => {
    const before = structuredClone(spec);
    expect(edit({})).to.deep.equal(spec);
    edit(
      {
        env: ['A=1'],
        additionalGids: [5],
        mounts: [{ hostPath: '/a', containerPath: '/proc' }],
        hooks: [{ hookName: 'poststop', path: '/x' }],
      },
      [node()],
    );
    expect(spec).to.deep.equal(before);
  });

  it('replaces variables by name and adds the rest', () => {
    const from = { ...spec, process: { ...spec.process, env: ['PATH=/bin', 'A=0'] } };
    expect(edit({ env: ['A=1', 'B=2', 'B=3'] }, [], from).process.env).to.deep.equal(['PATH=/bin', 'A=1', 'B=3']);
  });

  it('gives nodes to the user of the container, and allows them in the cgroup', () => {
    const from = {
      ...spec,
      process: { ...spec.process, user: { uid: 1000, gid: 100 } },
      linux: { ...spec.linux, devices: [{ ...node(), minor: 9, uid: 0, gid: 0 }] },
    };
    const { linux } = edit(
      {},
      [
        node(),
        node({ path: '/dev/y', type: 'b', permissions: '', uid: 0, gid: 44 }),
        node({ path: '/dev/z', permissions: 'none' }),
        node({ path: '/fifo', type: 'p' }),
      ],
      from,
    );
    expect(linux.devices).to.deep.equal([
      { path: '/dev/x', type: 'c', major: 240, minor: 1, fileMode: 0o660, uid: 1000, gid: 100 },
      { path: '/dev/y', type: 'b', major: 240, minor: 1, fileMode: 0o660, uid: 0, gid: 44 },
      { path: '/dev/z', type: 'c', major: 240, minor: 1, fileMode: 0o660, uid: 1000, gid: 100 },
      { path: '/fifo', type: 'p', major: 240, minor: 1, fileMode: 0o660, uid: 1000, gid: 100 },
    ]);
    expect(linux.resources.devices).to.deep.equal([
      ...(from.linux.resources.devices ?? []),
      { allow: true, type: 'c', major: 240, minor: 1, access: 'rw' },
      { allow: true, type: 'b', major: 240, minor: 1, access: 'rwm' },
    ]);
  });

  it('replaces mounts by place, parents first', () => {
    const mounts = [
      { hostPath: '/host/deep', containerPath: '/dev/deep/er/', options: ['ro', 'rbind'] },
      { hostPath: '/host/dev', containerPath: '/dev' },
      { hostPath: 'tmpfs', containerPath: '/t', type: 'tmpfs', options: ['size=1k'] },
      { hostPath: '/other', containerPath: '/dev/deep/er', options: ['bind'] },
    ];
    expect(edit({ mounts }).mounts).to.deep.equal([
      { destination: '/proc', type: 'proc', source: 'proc', options: ['nosuid', 'noexec', 'nodev'] },
      { destination: '/dev', type: 'bind', source: '/host/dev', options: ['rbind'] },
      { destination: '/t', type: 'tmpfs', source: 'tmpfs', options: ['size=1k'] },
      { destination: '/dev/deep/er', type: 'bind', source: '/other', options: ['bind'] },
    ]);
  });

  it('maps the ids of bind mounts as those of the pod', () => {
    const ids = {
      uidMappings: [{ containerID: 0, hostID: 65536, size: 65536 }],
      gidMappings: [{ containerID: 0, hostID: 65536, size: 65536 }],
    };
    const from = { ...spec, linux: { ...spec.linux, ...ids } };
    const mounts = [
      { hostPath: '/lib/x', containerPath: '/lib/x', options: ['ro', 'rbind'] },
      { hostPath: 'tmpfs', containerPath: '/t', type: 'tmpfs' },
    ];
    const mapped = edit({ mounts }, [], from).mounts;
    expect(mapped.find(({ destination }) => destination === '/lib/x')).to.include(ids);
    expect(mapped.find(({ destination }) => destination === '/t')).to.not.have.property('uidMappings');
  });

  it('adds hooks by name, groups but 0, and the last word on RDT', () => {
    const hooks = [
      { hookName: 'createContainer' as const, path: '/one', args: ['one', 'x'] },
      { hookName: 'createContainer' as const, path: '/two', timeout: 3 },
      { hookName: 'poststop' as const, path: '/three', env: ['A=1'] },
    ];
    const edited = edit({ hooks, additionalGids: [0, 44, 44], intelRdt: { closID: 'x' } });
    expect(edited.hooks).to.deep.equal({
      createContainer: [
        { path: '/one', args: ['one', 'x'] },
        { path: '/two', timeout: 3 },
      ],
      poststop: [{ path: '/three', env: ['A=1'] }],
    });
    expect(edited.process.user.additionalGids).to.deep.equal([44]);
    expect(edited.linux.intelRdt).to.deep.equal({ closID: 'x' });
    expect(
      mergedEdits([{ ...NO_EDITS, intelRdt: { closID: 'a' } }, NO_EDITS, { ...NO_EDITS, env: ['A=1'], intelRdt: { closID: 'b' } }]),
    ).to.deep.equal({ ...NO_EDITS, env: ['A=1'], intelRdt: { closID: 'b' } });
  });
});
