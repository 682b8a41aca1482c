import { fileURLToPath } from 'node:url';
import { loadPackageDefinition } from '@grpc/grpc-js';
import { loadSync } from '@grpc/proto-loader';
import { expect } from 'chai';
import fc from 'fast-check';
import { inChunks, viewsOf, weightOf } from '../../../src/cri/chunks.ts';
import { containerStatusView } from '../../../src/cri/view/container.ts';
import type { ProtoGrpcType } from '../../../src/gen/cri/runtime-v1.ts';
import type { ContainerStatus } from '../../../src/gen/cri/runtime/v1/ContainerStatus.ts';
import { containerConfig, containerRecord } from '../../lib/records.ts';

const PROTO = fileURLToPath(new URL('../../../proto/runtime-v1.proto', import.meta.url));

describe('cri/chunks', () => {
  it('weighs a message as no less than it is on the wire', () => {
    const { runtime } = loadPackageDefinition(
      loadSync(PROTO, { longs: String, enums: String, defaults: true, arrays: true, objects: true, oneofs: true }),
    ) as unknown as ProtoGrpcType;
    const serialize = runtime.v1.RuntimeService.service.ContainerStatus.responseSerialize;
    const map = fc.dictionary(fc.string({ unit: 'binary', maxLength: 300 }), fc.string({ unit: 'binary', maxLength: 300 }));
    fc.assert(
      fc.property(
        map,
        map,
        fc.array(fc.bigInt({ min: -(2n ** 63n), max: 2n ** 63n - 1n })),
        fc.bigInt({ min: 0n, max: 2n ** 63n - 1n }),
        (labels, annotations, ids, atNs) => {
          const status: ContainerStatus = {
            ...containerStatusView(containerRecord({ config: containerConfig({ labels, annotations }), createdAtNs: String(atNs) })),
            exitCode: -1,
            user: { linux: { uid: '-1', gid: '-1', supplementalGroups: ids.map(String) } },
          };
          expect(serialize({ status }).length).to.be.at.most(weightOf({ status }));
        },
      ),
    );
    expect(weightOf({ bytes: Buffer.alloc(1000) })).to.be.at.least(1000);
    expect(weightOf({ none: null, missing: undefined, yes: true, number: 1.5 })).to.be.above(0);
  });

  it('keeps the order and loses nothing, whatever the sizes', async () => {
    const big = 'x'.repeat(400_000);
    const records = Array.from({ length: 500 }, (_, index) => ({ index, text: index % 7 === 0 ? big : '' }));
    const parts: number[][] = [];
    for await (const part of inChunks(
      records,
      (record) => record,
      (all) => all,
    )) {
      parts.push(part.map(({ index }) => index));
      expect(part.reduce((sum, { text }) => sum + text.length, 0)).to.be.below(4 * 1024 * 1024);
    }
    expect(parts.length).to.be.above(10);
    expect(parts.flat()).to.deep.equal(records.map(({ index }) => index));
  });

  it('sends a record that is too large alone, and nothing for no records', async () => {
    const parts: string[][] = [];
    for await (const part of inChunks(
      ['a', 'x'.repeat(2_000_000), 'b'],
      (text) => text,
      (all) => all,
    ))
      parts.push(part);
    expect(parts.map((part) => part.map((text) => text[0]))).to.deep.equal([['a'], ['x'], ['b']]);
    for await (const _ of inChunks([], String, (all) => all)) throw new Error('a message for nothing');
  });

  it('makes views a bounded number at a time, and none before they are asked for', async () => {
    let [making, most, made] = [0, 0, 0];
    const view = async (index: number): Promise<number> => {
      most = Math.max(most, ++making);
      await new Promise((resolve) => setImmediate(resolve));
      making--;
      made++;
      return index;
    };
    const records = Array.from({ length: 1000 }, (_, index) => index);
    expect(await viewsOf(records, view)).to.deep.equal(records);
    expect(most).to.be.at.most(64);
    made = 0;
    const chunks = inChunks(records, view, (part) => part);
    expect(made).to.equal(0);
    await chunks.next();
    await chunks.return(undefined);
  });
});
