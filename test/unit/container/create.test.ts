import { expect } from 'chai';
import { newOp } from '../../../src/base/op.ts';
import type { Work } from '../../../src/base/operations.ts';
import { createContainer } from '../../../src/container/create.ts';
import type { ContainerDeps } from '../../../src/container/deps.ts';
import type { ContainerRecord } from '../../../src/container/record.ts';
import { containerConfig, containerRecord, podRecord } from '../../lib/records.ts';

describe('container/create', () => {
  it('R33: shows no container of a pod that was stopped after the container was made', async () => {
    const made = containerRecord({ state: 'creating' });
    const shown: string[] = [];
    let pod = podRecord();
    const deps = {
      sandbox: () => pod,
      store: { values: () => [], get: () => made, put: async ({ state }: ContainerRecord) => void shown.push(state) },
      operations: {
        async run(_op: unknown, _key: string, work: Work<ContainerRecord>) {
          pod = podRecord({ state: 'notReady' });
          await work.collect(made);
          return made;
        },
      },
      exits: new Map(),
      emit: (type: string) => void shown.push(type),
    } as unknown as ContainerDeps;
    const error = await createContainer(deps, newOp('create'), pod.id, containerConfig()).catch((each: unknown) => each);
    expect(error).to.have.property('kind', 'failedPrecondition');
    expect(shown).to.deep.equal([]);
  });
});
