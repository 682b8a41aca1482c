import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { expect } from 'chai';
import { createNamespaces, removeNamespaces } from '../../../src/os/namespaces.ts';
import { parseNetDev, podNetwork } from '../../../src/stats/pod-network.ts';

const TEXT = `Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo:   11980     119    0    0    0     0          0         0    11980     119    0    0    0     0       0          0
  eth0: 4813231    5125    3    0    0     0          0         0   387650    4601    7    0    0     0       0          0
eth0.7:1 2 0 0 0 0 0 0 9007199254740991 4 0 0 0 0 0 0
`;

describe('stats/pod-network', () => {
  it('reads /proc/net/dev without lo', () => {
    expect(parseNetDev(TEXT)).to.deep.equal([
      {
        name: 'eth0',
        rxBytes: 4_813_231,
        rxPackets: 5125,
        rxErrors: 3,
        rxDropped: 0,
        txBytes: 387_650,
        txPackets: 4601,
        txErrors: 7,
        txDropped: 0,
      },
      {
        name: 'eth0.7',
        rxBytes: 1,
        rxPackets: 2,
        rxErrors: 0,
        rxDropped: 0,
        txBytes: 9_007_199_254_740_991,
        txPackets: 4,
        txErrors: 0,
        txDropped: 0,
      },
    ]);
  });

  it('takes anything else for no interfaces', () => {
    for (const text of ['', '\n\n', 'no colon here']) expect(parseNetDev(text)).to.deep.equal([]);
  });

  it("never takes another namespace's counters for the pod's", async () => {
    // Our own process is not in a namespace pinned there: as if its number had been a pod's before.
    expect(await podNetwork('/nonexistent/net', process.pid)).to.deep.equal([]);
  });

  it("reads a namespace's counters through a process in it, one reading for all", async () => {
    const path = `/proc/${process.pid}/ns/net`;
    const reading = podNetwork(path, process.pid);
    expect(podNetwork(path, undefined)).to.equal(reading);
    expect(await reading).to.be.an('array');
  });

  it('enters a pinned namespace that no process is in', async function () {
    if (process.getuid?.() !== 0) this.skip();
    const dir = join(mkdtempSync(join(tmpdir(), 'gantry-test-stats-')), 'ns');
    try {
      await createNamespaces({ dir, kinds: ['net'] });
      // Only lo, and tunnels that some kernels make with every namespace: none of the host's links.
      const names = (await podNetwork(join(dir, 'net'), process.pid)).map(({ name }) => name);
      expect(names.filter((name) => /^(eth|en|veth|br)/.test(name))).to.deep.equal([]);
    } finally {
      await removeNamespaces(dir);
      rmSync(dirname(dir), { recursive: true });
    }
  });
});
