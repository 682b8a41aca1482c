import { expect } from 'chai';
import type { Client } from '../../../src/cli/client.ts';
import { printImages } from '../../../src/cli/images.ts';
import { barOf, pullWithProgress } from '../../../src/cli/pull.ts';
import { sizeText } from '../../../src/cli/size.ts';
import type { Layer__Output } from '../../../src/gen/gantry/gantry/v1/Layer.ts';
import type { Pull__Output } from '../../../src/gen/gantry/gantry/v1/Pull.ts';

const layer = (state: Layer__Output['state'], fetchedBytes: number): Layer__Output => ({
  digest: `sha256:${'ab'.repeat(32)}`,
  sizeBytes: '2000000',
  fetchedBytes: String(fetchedBytes),
  state,
});

/** Tells of pulls as the daemon would, one after the other, then answers. */
function clientThatTells(...moments: Pull__Output[][]): Client {
  let seen: (pulls: readonly Pull__Output[]) => void = () => undefined;
  return {
    watchPulls(listener) {
      seen = listener;
      return { [Symbol.dispose]: () => (seen = () => undefined) };
    },
    async pull() {
      for (const moment of moments) seen(moment);
      return 'sha256:id';
    },
    images: async () => [
      {
        id: `sha256:${'1'.repeat(64)}`,
        repoTags: ['b:2', 'a:1'],
        repoDigests: [],
        size: '1234567',
        pinned: false,
        uid: null,
        username: '',
        spec: null,
      },
      {
        id: `sha256:${'2'.repeat(64)}`,
        repoTags: [],
        repoDigests: ['p@sha256:x'],
        size: '999',
        pinned: true,
        uid: null,
        username: '',
        spec: null,
      },
    ],
    [Symbol.dispose]: () => undefined,
  };
}

const pull = (image: string, ...layers: Layer__Output[]): Pull__Output => ({
  image,
  layers,
  state: 'PULLING',
  startedAtNs: '1',
  error: '',
});

describe('cli/pull', () => {
  it('writes sizes with three figures', () => {
    expect([0, 999, 1000, 12_345, 999_999, 1e6, 4.5e9].map(sizeText)).to.deep.equal([
      '0 B',
      '999 B',
      '1.00 kB',
      '12.3 kB',
      '1.00 MB',
      '1.00 MB',
      '4.50 GB',
    ]);
  });

  it('draws a bar that is full only when all is there', () => {
    expect(barOf(layer('FETCHING', 1_000_000))).to.equal('abababababab  [===============>              ]  1.00 MB of 2.00 MB  fetching');
    expect(barOf(layer('WAITING', 0))).to.match(/\[> +\] {2}0 B of/);
    expect(barOf(layer('READY', 2_000_000))).to.include(`[${'='.repeat(30)}]`);
  });

  it('redraws on a terminal, says changes elsewhere, and looks at its own image only', async () => {
    const moments = [
      [pull('docker.io/library/x:latest', layer('FETCHING', 5)), pull('other/y:1', layer('READY', 1))],
      [pull('docker.io/library/x:latest', layer('READY', 2_000_000))],
    ];
    const tty: string[] = [];
    expect(await pullWithProgress(clientThatTells(...moments), 'x', { isTTY: true, write: (text) => tty.push(text) })).to.equal(
      'sha256:id',
    );
    expect(tty).to.have.length(2);
    expect(tty[0]).to.not.include('\x1b[1A');
    expect(tty[1]).to.match(/^\x1b\[1A/);
    const plain: string[] = [];
    await pullWithProgress(clientThatTells(moments[0]!, moments[0]!, moments[1]!), 'x', {
      isTTY: false,
      write: (text) => plain.push(text),
    });
    expect(plain).to.deep.equal(['abababababab  2.00 MB  fetching\n', 'abababababab  2.00 MB  ready\n']);
  });

  it('lists images by name', async () => {
    const lines: string[] = [];
    await printImages(clientThatTells(), (line) => lines.push(line));
    expect(lines).to.deep.equal([
      'IMAGE       ID                  SIZE  PINNED',
      'a:1         1111111111111    1.23 MB',
      'b:2         1111111111111    1.23 MB',
      'p@sha256:x  2222222222222      999 B  yes',
    ]);
  });
});
