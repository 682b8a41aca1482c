import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { ServiceError } from '@grpc/grpc-js';
import { Client, credentials, Metadata } from '@grpc/grpc-js';
import { expect } from 'chai';
import { silentLogger } from '../../../src/base/log.ts';
import type { Op } from '../../../src/base/op.ts';
import { boundedTimeout } from '../../../src/cri/long-deadlines.ts';
import { createCriServer } from '../../../src/cri/server.ts';
import { unary } from '../../../src/cri/unary.ts';

const DAY_MS = 86_400_000;

describe('cri/long-deadlines', () => {
  it('bounds what does not fit 32 bits of milliseconds, in any unit', () => {
    for (const asked of ['2592120S', '99999999S', '99999999M', '99999999H', '2147484S']) expect(boundedTimeout(asked)).to.equal('2147483S');
    for (const asked of ['2147483S', '99999999m', '1n', '99999999u', '0S', 'x', '123456789S'])
      expect(boundedTimeout(asked)).to.equal(asked);
  });

  it('lets a call with a deadline in a month begin', async () => {
    const dir = mkdtempSync(join(tmpdir(), 'gantry-test-deadline-'));
    const ops: Op[] = [];
    const StopContainer = unary(
      (request: unknown) => request,
      (op) => {
        ops.push(op);
        return {};
      },
    );
    const server = await createCriServer({ runtime: { StopContainer } as never, image: {}, gantry: {}, log: silentLogger });
    await server.listen(join(dir, 'cri.sock'));
    const client = new Client(`unix:${join(dir, 'cri.sock')}`, credentials.createInsecure());
    try {
      for (const days of [30, 365]) {
        const options = { deadline: Date.now() + days * DAY_MS };
        const error = await new Promise<ServiceError | null>((resolve) =>
          client.makeUnaryRequest(
            '/runtime.v1.RuntimeService/StopContainer',
            () => Buffer.alloc(0),
            (bytes) => bytes,
            {},
            new Metadata(),
            options,
            resolve,
          ),
        );
        expect(error).to.equal(null);
      }
      expect(ops.map(({ deadlineMs }) => Math.round((deadlineMs - Date.now()) / DAY_MS))).to.deep.equal([25, 25]);
    } finally {
      client.close();
      await server.close(100);
      rmSync(dir, { recursive: true, force: true });
    }
  });
});
