import { fileURLToPath } from 'node:url';
import { loadPackageDefinition } from '@grpc/grpc-js';
import { loadSync } from '@grpc/proto-loader';
import { expect } from 'chai';
import fc from 'fast-check';
import type { ContainerRecord } from '../../../src/container/record.ts';
import { moved } from '../../../src/container/record.ts';
import { answerEncoder, OfRecords } from '../../../src/cri/of-records.ts';
import { containerStatusView, containerView } from '../../../src/cri/view/container.ts';
import { podSandboxView } from '../../../src/cri/view/sandbox.ts';
import type { ProtoGrpcType } from '../../../src/gen/cri/runtime-v1.ts';
import { containerConfig, containerRecord, podConfig, podRecord } from '../../lib/records.ts';

const PROTO = fileURLToPath(new URL('../../../proto/runtime-v1.proto', import.meta.url));
const { runtime } = loadPackageDefinition(
  loadSync(PROTO, { longs: String, enums: String, defaults: true, arrays: true, objects: true, oneofs: true }),
) as unknown as ProtoGrpcType;
const { ListContainers, ListPodSandbox, ContainerStatus } = runtime.v1.RuntimeService.service;

const text = fc.string({ unit: 'grapheme', maxLength: 60 });
const map = fc.dictionary(fc.string({ unit: 'grapheme', minLength: 1, maxLength: 40 }), text, { maxKeys: 5 });
const numeral = fc.bigInt({ min: 0n, max: 2n ** 63n - 1n }).map(String);
const id = fc.uint8Array({ minLength: 32, maxLength: 32 }).map((bytes) => Buffer.from(bytes).toString('hex'));
const pods = fc.array(
  fc
    .record({
      id,
      state: fc.constantFrom('ready' as const, 'notReady' as const, 'removing' as const, 'unknown' as const),
      createdAtNs: numeral,
      runtimeHandler: text,
      config: fc.record({ labels: map, annotations: map }).map(podConfig),
    })
    .map(podRecord),
);
const containers = fc.array(
  fc
    .record({
      id,
      state: fc.constantFrom('created' as const, 'running' as const, 'exited' as const, 'removing' as const, 'unknown' as const),
      createdAtNs: numeral,
      startedAtNs: numeral,
      logPath: text,
      stopSignal: fc.integer({ min: 1, max: 64 }),
      exit: fc.option(
        fc.record({ exitCode: fc.integer({ min: -1, max: 255 }), finishedAtNs: numeral, reason: text, message: text }) as fc.Arbitrary<
          ContainerRecord['exit']
        >,
        { nil: undefined },
      ),
      user: fc.record({ uid: fc.nat(), gid: fc.nat(), additionalGids: fc.array(fc.nat()) }),
      config: fc
        .record({ labels: map, annotations: map, image: fc.constantFrom(null, containerConfig().image) })
        .map((change) => containerConfig(change)),
    })
    .map((change) => containerRecord(change as Partial<ContainerRecord>)),
);

const listed = (records: readonly ContainerRecord[]) => OfRecords.from(records, (record) => ({ containers: [containerView(record)] }));

describe('cri/of-records', () => {
  it('says byte for byte what the plain encoder says, the first time and from what is kept', () => {
    const encodePods = answerEncoder(ListPodSandbox.responseSerialize);
    const encodeContainers = answerEncoder(ListContainers.responseSerialize);
    const encodeStatus = answerEncoder(ContainerStatus.responseSerialize);
    fc.assert(
      fc.property(pods, containers, (somePods, some) => {
        const podBytes = ListPodSandbox.responseSerialize({ items: somePods.map(podSandboxView) });
        const bytes = ListContainers.responseSerialize({ containers: some.map(containerView) });
        for (const _ of ['new', 'kept']) {
          expect(encodePods(OfRecords.from(somePods, (record) => ({ items: [podSandboxView(record)] })))).to.deep.equal(podBytes);
          expect(encodeContainers(listed(some))).to.deep.equal(bytes);
          for (const record of some) {
            const status = encodeStatus(OfRecords.from([record], (each) => ({ status: containerStatusView(each) })));
            expect(status).to.deep.equal(ContainerStatus.responseSerialize({ status: containerStatusView(record), info: {} }));
          }
        }
        // A filter's answer is made of the same parts, in another order too.
        const half = some.filter((_, index) => index % 2 === 0).reverse();
        expect(encodeContainers(listed(half))).to.deep.equal(ListContainers.responseSerialize({ containers: half.map(containerView) }));
      }),
    );
    expect(ListContainers.responseDeserialize(encodeContainers(listed([])))).to.deep.equal({ containers: [] });
  });

  it('tells a changed record as it is now', () => {
    const encode = answerEncoder(ListContainers.responseSerialize);
    const running = containerRecord({ state: 'running' });
    const states = [running, moved(running, 'exited'), { ...running, imageRef: 'other' }].map((record) => {
      const [container] = ListContainers.responseDeserialize(encode(listed([record]))).containers;
      return `${container?.state} ${container?.imageRef}`;
    });
    expect(states).to.deep.equal([
      `CONTAINER_RUNNING ${running.imageRef}`,
      `CONTAINER_EXITED ${running.imageRef}`,
      'CONTAINER_RUNNING other',
    ]);
  });

  it('makes the view of a record once, of a large one each time; those of two RPCs are two', () => {
    let made = 0;
    const answer = (record: ContainerRecord) =>
      OfRecords.from([record], (each) => {
        made++;
        return { containers: [containerView(each)] };
      });
    const [small, large] = [
      containerRecord(),
      containerRecord({ config: containerConfig({ annotations: { note: 'n'.repeat(64 * 1024) } }) }),
    ];
    const encode = answerEncoder(ListContainers.responseSerialize);
    for (let n = 0; n < 3; n++) encode(answer(small));
    expect(made).to.equal(1);
    answerEncoder(ListContainers.responseSerialize)(answer(small));
    expect(made).to.equal(2);
    const first = encode(answer(large));
    expect(encode(answer(large))).to.deep.equal(first);
    expect(made).to.equal(4);
  });

  it('leaves other answers to the plain encoder', () => {
    const encode = answerEncoder(ListContainers.responseSerialize);
    const message = { containers: [containerView(containerRecord())] };
    expect(encode(message)).to.deep.equal(ListContainers.responseSerialize(message));
  });
});
