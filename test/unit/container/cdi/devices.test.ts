import { expect } from 'chai';
import { mkdtempSync, rmSync, symlinkSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { newOp } from '../../../../src/base/op.ts';
import { cdiHostDevices, cdiRequests } from '../../../../src/container/cdi/devices.ts';
import type { CdiDeviceNode } from '../../../../src/container/oci-spec/cdi-edits.ts';

describe('container/cdi/devices', () => {
  const found = async (node: CdiDeviceNode): Promise<object> =>
    (await cdiHostDevices(newOp('test', { timeoutMs: 10_000 }), [node]))[0] ?? {};
  const refusal = (node: CdiDeviceNode): Promise<string> => found(node).then(JSON.stringify, (error: Error) => error.message);

  it('collects the devices of the field and of annotations, each once', () => {
    expect(
      cdiRequests({
        CDIDevices: [{ name: 'v/c=b' }, { name: 'v/c=a' }],
        annotations: { 'cdi.k8s.io/z_1': 'v/c=d', 'cdi.k8s.io/a_1': 'v/c=a,v/c=c', 'other/x': 'v/c=e', 'x.cdi.k8s.io/y': 'v/c=f' },
      }),
    ).to.deep.equal([
      { name: 'v/c=b', field: 'config.CDI_devices[0].name' },
      { name: 'v/c=a', field: 'config.CDI_devices[1].name' },
      { name: 'v/c=c', field: 'config.annotations[cdi.k8s.io/a_1]' },
      { name: 'v/c=d', field: 'config.annotations[cdi.k8s.io/z_1]' },
    ]);
  });

  it('asks the host for what the file leaves out', async () => {
    const dir = mkdtempSync(join(tmpdir(), 'gantry-cdi-'));
    symlinkSync('/dev/null', join(dir, 'link'));
    try {
      const nullDevice = { type: 'c', major: 1, minor: 3, fileMode: 0o666, permissions: 'rwm' };
      expect(await found({ path: '/dev/null' })).to.deep.equal({ path: '/dev/null', ...nullDevice });
      expect(await found({ path: '/dev/mine', hostPath: join(dir, 'link'), permissions: 'r', uid: 7 })).to.deep.equal({
        path: '/dev/mine',
        source: join(dir, 'link'),
        ...nullDevice,
        permissions: 'r',
        uid: 7,
      });
      expect(await found({ path: '/dev/null', type: 'u', fileMode: 0o600 })).to.include({ type: 'c', fileMode: 0o600 });
    } finally {
      rmSync(dir, { recursive: true });
    }
  });

  it('takes a node that the file describes in full, there or not', async () => {
    expect(await found({ path: '/dev/absent', type: 'c', major: 240, minor: 0 })).to.deep.equal({
      path: '/dev/absent',
      type: 'c',
      major: 240,
      minor: 0,
      fileMode: 0o666,
      permissions: 'rwm',
    });
    expect(await found({ path: '/dev/absent', type: 'p' })).to.include({ type: 'p', major: 0 });
  });

  it('names the node that is missing, no device, or of another type', async () => {
    expect(await refusal({ path: '/dev/absent' })).to.equal('CDI device node /dev/absent: /dev/absent is not a device of this machine');
    expect(await refusal({ path: '/dev/x', hostPath: '/etc/passwd' })).to.contain('CDI device node /dev/x: /etc/passwd is not a device');
    expect(await refusal({ path: '/dev/null', type: 'b' })).to.contain('/dev/null is of type c, the CDI spec says b');
  });
});
