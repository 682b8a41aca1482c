import { expect } from 'chai';
import { setTimeout as sleep } from 'node:timers/promises';
import { silentLogger } from '../../../src/base/log.ts';
import type { ContainerDeps } from '../../../src/container/deps.ts';
import { watchExit } from '../../../src/container/exit.ts';
import { LastingWork } from '../../../src/base/lasting-work.ts';
import type { ContainerRecord } from '../../../src/container/record.ts';
import { processRef } from '../../../src/os/process.ts';
import { containerRecord } from '../../lib/records.ts';

describe('container/exit', () => {
  it('R21: watches again what lives on although its watch failed', async () => {
    const init = processRef(process.pid);
    if (!init) throw new Error('no process');
    let record: ContainerRecord = containerRecord({ process: { init, monitor: init } });
    let watches = 0;
    const deps = {
      log: silentLogger,
      exits: new Map(),
      starts: new LastingWork(),
      sampler: { unregister: () => undefined },
      tasks: { start: () => undefined },
      store: { get: () => record, note: async (next: ContainerRecord) => void (record = next) },
      emit: () => undefined,
      handlerOf: () => ({
        waitExit: async () => {
          if (++watches === 1) throw new Error('too many open files');
          return { exitCode: 3, signal: 0, exitedAtNs: 1n, oomKilled: false };
        },
      }),
    } as unknown as ContainerDeps;
    watchExit(deps, record, 20);
    await sleep(200);
    expect([watches, record.state, record.exit?.exitCode]).to.deep.equal([2, 'exited', 3]);
  });
});
