import { expect } from 'chai';
import type { ContainerRecord } from '../../../src/container/record.ts';
import { publisher } from '../../../src/cri/view/event.ts';
import { Bus } from '../../../src/events/bus.ts';
import type { ContainerEventResponse } from '../../../src/gen/cri/runtime/v1/ContainerEventResponse.ts';
import type { PodSandboxRecord } from '../../../src/sandbox/record.ts';
import { containerConfig, containerRecord, podRecord } from '../../lib/records.ts';

describe('cri/view/event (R24)', () => {
  let bus: Bus<ContainerEventResponse>;
  let sandboxes: Map<string, PodSandboxRecord>;
  let containers: ContainerRecord[];
  let looked = 0;
  let tell: ReturnType<typeof publisher>;
  const seen = async (events: AsyncIterable<ContainerEventResponse>, count: number): Promise<ContainerEventResponse[]> => {
    const all: ContainerEventResponse[] = [];
    for await (const event of events) if (all.push(event) === count) break;
    return all;
  };
  beforeEach(() => {
    bus = new Bus();
    sandboxes = new Map([['a'.repeat(64), podRecord()]]);
    containers = [
      containerRecord(),
      containerRecord({ id: 'd'.repeat(64), state: 'creating' }),
      containerRecord({ id: 'e'.repeat(64), sandboxId: 'b' }),
    ];
    looked = 0;
    const values = (): ContainerRecord[] => {
      looked++;
      return containers;
    };
    tell = publisher(bus, { sandboxes: { get: (id) => sandboxes.get(id) }, containers: { values } });
  });

  it('makes no views for nobody', () => {
    tell.container('created', containerRecord());
    tell.sandbox('created', podRecord());
    expect(looked).to.equal(0);
  });

  it("holds the pod's status and those of its visible containers", async () => {
    using events = bus.subscribe(new AbortController().signal);
    tell.container('started', containerRecord());
    const [event] = await seen(events, 1);
    expect(event).to.deep.include({ containerId: 'c'.repeat(64), containerEventType: 'CONTAINER_STARTED_EVENT' });
    expect(event?.podSandboxStatus?.id).to.equal('a'.repeat(64));
    expect(event?.containersStatuses?.map(({ id }) => id)).to.deep.equal(['c'.repeat(64)]);
  });

  it("tells a pod's end with its status, though its record is gone", async () => {
    using events = bus.subscribe(new AbortController().signal);
    sandboxes.clear();
    containers = [];
    tell.sandbox('deleted', podRecord({ state: 'removing' }));
    const [event] = await seen(events, 1);
    expect(event?.podSandboxStatus).to.deep.include({ id: 'a'.repeat(64), state: 'SANDBOX_NOTREADY' });
  });

  it('says nothing of a container whose pod nobody knows, and names an image for one whose record could not be read', async () => {
    using events = bus.subscribe(new AbortController().signal);
    tell.container('deleted', containerRecord({ sandboxId: '' }));
    containers = [containerRecord({ state: 'unknown', config: containerConfig({ image: null }) })];
    tell.sandbox('stopped', podRecord());
    const [event] = await seen(events, 1);
    expect(event?.containerEventType).to.equal('CONTAINER_STOPPED_EVENT');
    expect(event?.containersStatuses?.[0]?.image).to.deep.equal({ image: '' });
  });
});
