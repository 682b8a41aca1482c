import { expect } from 'chai';
import { silentLogger } from '../../../src/base/log.ts';
import { newOp } from '../../../src/base/op.ts';
import { attach } from '../../../src/container/attach.ts';
import type { ContainerDeps } from '../../../src/container/deps.ts';
import { containerRecord } from '../../lib/records.ts';

describe('container/attach', () => {
  it("leaves nothing with the container's end that grows with its clients", async () => {
    let reactions = 0;
    let attached = 0;
    const gone = new Promise<void>(() => undefined);
    const then = gone.then.bind(gone);
    gone.then = ((...args: Parameters<typeof then>) => {
      reactions++;
      return then(...args);
    }) as typeof gone.then;
    const record = { ...containerRecord(), state: 'running' as const };
    const deps = {
      exits: new Map([[record.id, gone]]),
      store: { get: () => record },
      handler: () => ({
        attach: async () => {
          attached++;
          if (attached % 2 === 0) throw new Error('the client is gone');
        },
      }),
    } as unknown as ContainerDeps;
    const streams = { stdin: undefined, stdout: undefined, stderr: undefined, onResize: () => undefined };
    for (let i = 0; i < 100; i++) await attach(deps, newOp('attach', { log: silentLogger }), record.id, streams).catch(() => undefined);
    expect([attached, reactions]).to.deep.equal([100, 1]);
  });
});
