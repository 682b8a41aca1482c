import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { ServiceError } from '@grpc/grpc-js';
import { Client, credentials, Metadata, status } from '@grpc/grpc-js';
import { expect } from 'chai';
import { ClassifiedError } from '../../../src/base/errors.ts';
import { silentLogger } from '../../../src/base/log.ts';
import type { CriServer } from '../../../src/cri/server.ts';
import { createCriServer } from '../../../src/cri/server.ts';
import { serverStream } from '../../../src/cri/server-stream.ts';
import { unary } from '../../../src/cri/unary.ts';
import { runtimeWords } from '../../../src/runtime/words.ts';

const SERVICE = '/runtime.v1.RuntimeService';
const toBytes = (): Buffer => Buffer.alloc(0);
const asTheyAre = (bytes: Buffer): Buffer => bytes;

describe('cri/unary: what an error says', () => {
  let dir: string;
  let server: CriServer;
  let client: Client;
  let words = '';

  before(async () => {
    dir = mkdtempSync(join(tmpdir(), 'gantry-test-unary-'));
    const fail = (): never => {
      throw new ClassifiedError('failedPrecondition', words);
    };
    const runtime = { ExecSync: unary(fail, fail), GetContainerEvents: serverStream(fail, fail) } as never;
    server = await createCriServer({ runtime, image: {}, gantry: {}, log: silentLogger });
    await server.listen(join(dir, 'cri.sock'));
    client = new Client(`unix:${join(dir, 'cri.sock')}`, credentials.createInsecure());
  });
  after(async () => {
    client.close();
    await server.close(100);
    rmSync(dir, { recursive: true, force: true });
  });

  const options = () => ({ deadline: Date.now() + 2000 });
  const calls: Record<string, () => Promise<ServiceError | null>> = {
    'a unary call': () =>
      new Promise((resolve) => client.makeUnaryRequest(`${SERVICE}/ExecSync`, toBytes, asTheyAre, {}, new Metadata(), options(), resolve)),
    'a stream': () =>
      new Promise((resolve) =>
        client
          .makeServerStreamRequest(`${SERVICE}/GetContainerEvents`, toBytes, asTheyAre, {}, new Metadata(), options())
          .on('error', resolve)
          .resume(),
      ),
  };
  for (const [name, call] of Object.entries(calls)) {
    it(`${name} fails with words that were cut in the middle of an emoji`, async () => {
      words = runtimeWords(JSON.stringify({ level: 'error', msg: `exec: "${'😀'.repeat(800)}": executable file not found in $PATH` }));
      expect(words.isWellFormed(), 'half a pair is among them').to.equal(false);
      const error = await call();
      expect(error?.code).to.equal(status.FAILED_PRECONDITION);
      expect(error?.details).to.match(/😀": executable file not found in \$PATH$/u);
    });

    it(`${name} fails with its own code however long the words are`, async () => {
      words = '語'.repeat(1_000_000);
      const error = await call();
      expect(error?.code).to.equal(status.FAILED_PRECONDITION);
      expect(error?.details).to.match(/^語+\.\.\.$/);
    });
  }
});
