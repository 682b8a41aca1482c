import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { ClientReadableStream, ServiceError } from '@grpc/grpc-js';
import { Client, credentials, status } from '@grpc/grpc-js';
import { expect } from 'chai';
import { ClassifiedError } from '../../../src/base/errors.ts';
import { silentLogger } from '../../../src/base/log.ts';
import { inChunks } from '../../../src/cri/chunks.ts';
import { serverStream } from '../../../src/cri/server-stream.ts';
import type { CriServer, RuntimeRows } from '../../../src/cri/server.ts';
import { createCriServer } from '../../../src/cri/server.ts';
import { containerView } from '../../../src/cri/view/container.ts';
import { podSandboxView } from '../../../src/cri/view/sandbox.ts';
import type { ContainerRecord } from '../../../src/container/record.ts';
import { containerConfig, containerRecord, podConfig, podRecord } from '../../lib/records.ts';
import { StalledCall } from '../../lib/stalled.ts';

const anything = <T>(request: T): T => request;
const RECORDS = 20_000;
/** What a gRPC client takes unless told otherwise. */
const CLIENT_LIMIT_BYTES = 4 * 1024 * 1024;

describe('cri/server-stream', () => {
  let dir: string;
  let server: CriServer | undefined;
  let client: Client | undefined;

  const serve = async (runtime: RuntimeRows): Promise<void> => {
    dir = mkdtempSync(join(tmpdir(), 'gantry-test-stream-'));
    server = await createCriServer({ runtime, image: {}, gantry: {}, log: silentLogger });
    await server.listen(join(dir, 'cri.sock'));
    client = new Client(`unix:${join(dir, 'cri.sock')}`, credentials.createInsecure());
  };
  afterEach(async () => {
    client?.close();
    await server?.close(100);
    server = client = undefined;
    rmSync(dir, { recursive: true, force: true });
  });

  /** The raw messages of a stream. */
  const open = (rpc: string): ClientReadableStream<Buffer> => {
    if (client === undefined) throw new Error('not serving');
    return client.makeServerStreamRequest(
      `/runtime.v1.RuntimeService/${rpc}`,
      () => Buffer.alloc(0),
      (bytes: Buffer) => bytes,
      {},
    );
  };
  const ended = (stream: ClientReadableStream<Buffer>): Promise<{ code: number; details: string }> =>
    new Promise((resolve) => {
      stream.on('error', () => undefined);
      stream.on('status', ({ code, details }) => resolve({ code, details }));
    });
  const occurrences = (bytes: Buffer, text: string): number => bytes.toString('latin1').split(text).length - 1;

  it('streams 20,000 containers in messages that every client takes (P8)', async () => {
    const annotations = { 'io.kubernetes.container.ports': 'p'.repeat(900) };
    const records = Array.from({ length: RECORDS }, (_, index) =>
      containerRecord({
        id: index.toString(16).padStart(64, '0'),
        config: containerConfig({ annotations, labels: { 'the-name': `c${index}` } }),
      }),
    );
    await serve({ StreamContainers: serverStream(anything, () => inChunks(records, containerView, (containers) => ({ containers }))) });
    const stream = open('StreamContainers');
    const end = ended(stream);
    let [largest, messages, seen] = [0, 0, 0];
    const begunMs = Date.now();
    stream.on('data', (bytes: Buffer) => {
      largest = Math.max(largest, bytes.length);
      messages++;
      seen += occurrences(bytes, 'the-name');
    });
    expect(await end).to.deep.equal({ code: status.OK, details: 'OK' });
    expect(seen).to.equal(RECORDS);
    expect(largest).to.be.below(CLIENT_LIMIT_BYTES);
    expect(messages).to.be.above(5);
    console.log(`      ${RECORDS} containers: ${messages} messages, the largest of ${largest} bytes, ${Date.now() - begunMs} ms`);
  }).timeout(20_000);

  it('splits by size, not by number: pods with annotations of 256 KiB', async () => {
    const records = Array.from({ length: 60 }, () => podRecord({ config: podConfig({ annotations: { note: 'n'.repeat(256 * 1024) } }) }));
    await serve({
      StreamPodSandboxes: serverStream(anything, () => inChunks(records, podSandboxView, (podSandboxes) => ({ podSandboxes }))),
    });
    const stream = open('StreamPodSandboxes');
    const end = ended(stream);
    let seen = 0;
    stream.on('data', (bytes: Buffer) => (seen += occurrences(bytes, 'n'.repeat(256 * 1024))));
    expect((await end).code).to.equal(status.OK);
    expect(seen).to.equal(60);
  });

  it('makes no more than the client reads', async () => {
    let made = 0;
    const record = containerRecord({ config: containerConfig({ annotations: { note: 'n'.repeat(10_000) } }) });
    const records = Array.from({ length: RECORDS }, () => record);
    const view = (each: ContainerRecord) => {
      made++;
      return containerView(each);
    };
    await serve({ StreamContainers: serverStream(anything, () => inChunks(records, view, (containers) => ({ containers }))) });
    using stalled = new StalledCall(join(dir, 'cri.sock'), 'StreamContainers');
    await sleep(500);
    // Some 100 records are a message.
    expect(made).to.be.within(1, 1000);
    expect((await stalled.drain()).status).to.equal(status.OK);
    expect(made).to.equal(RECORDS);
  }).timeout(20_000);

  it('ends the work when the client goes', async () => {
    let over = false;
    await serve({
      StreamContainers: serverStream(anything, async function* (op) {
        try {
          for (;;) {
            yield { containers: [] };
            await sleep(1);
            if (op.signal.aborted) return;
          }
        } finally {
          over = true;
        }
      }),
    });
    const stream = open('StreamContainers');
    stream.on('error', () => undefined);
    await new Promise((resolve) => stream.once('data', resolve));
    stream.cancel();
    for (let tries = 0; !over && tries < 100; tries++) await sleep(20);
    expect(over).to.equal(true);
  });

  it('tells errors with their kind, before the first message and after', async () => {
    const refuse = (): never => {
      throw new ClassifiedError('resourceExhausted', 'you fell behind');
    };
    await serve({
      StreamContainers: serverStream(anything, async function* () {
        yield { containers: [] };
        refuse();
      }),
      StreamPodSandboxes: serverStream(refuse, () => []),
    });
    for (const rpc of ['StreamContainers', 'StreamPodSandboxes']) {
      const stream = open(rpc);
      const end = ended(stream);
      stream.on('data', () => undefined);
      expect(await end, rpc).to.deep.equal({ code: status.RESOURCE_EXHAUSTED, details: 'you fell behind' });
    }
    const stream = open('StreamContainerStats');
    const error = await new Promise<ServiceError>((resolve) => stream.on('error', resolve));
    expect(error.code).to.equal(status.UNIMPLEMENTED);
  });
});
