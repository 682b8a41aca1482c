import { mkdtempSync, rmSync } from 'node:fs';
import type { ClientHttp2Session, IncomingHttpHeaders } from 'node:http2';
import { connect } from 'node:http2';
import { connect as connectSocket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { ServiceError } from '@grpc/grpc-js';
import { Client, credentials, Metadata, status } from '@grpc/grpc-js';
import { expect } from 'chai';
import { silentLogger } from '../../../src/base/log.ts';
import type { Op } from '../../../src/base/op.ts';
import { timeoutMsOf } from '../../../src/cri/grpc.ts';
import type { CriServer } from '../../../src/cri/server.ts';
import { createCriServer } from '../../../src/cri/server.ts';
import { unary } from '../../../src/cri/unary.ts';

const DAY_MS = 86_400_000;
const SERVICE = '/runtime.v1.RuntimeService';
const MIB = 1024 * 1024;

describe('cri/grpc', () => {
  let dir: string;
  let socket: string;
  let server: CriServer;
  let client: Client;
  let session: ClientHttp2Session;
  const ops: Op[] = [];
  let reply: Promise<object> = Promise.resolve({});

  before(async () => {
    dir = mkdtempSync(join(tmpdir(), 'gantry-test-grpc-'));
    socket = join(dir, 'cri.sock');
    const noted = unary(
      (request: unknown) => request,
      (op) => {
        ops.push(op);
        return reply;
      },
    );
    const runtime = {
      StopContainer: noted,
      Version: unary(
        (request: unknown) => request,
        (_op, request) => request as object,
      ),
    };
    server = await createCriServer({ runtime: runtime as never, image: {}, gantry: {}, log: silentLogger });
    await server.listen(socket);
    client = new Client(`unix:${socket}`, credentials.createInsecure(), { 'grpc.max_send_message_length': -1 });
    session = connect('http://localhost', { createConnection: () => connectSocket(socket) });
  });
  after(async () => {
    client.close();
    session.destroy();
    await server.close(100);
    rmSync(dir, { recursive: true, force: true });
  });
  beforeEach(() => {
    ops.length = 0;
    reply = Promise.resolve({});
  });

  const ask = (
    rpc: string,
    message: Buffer = Buffer.alloc(0),
    deadline = Infinity,
  ): { answer: Promise<Buffer | ServiceError>; cancel: () => void } => {
    const { promise: answer, resolve } = Promise.withResolvers<Buffer | ServiceError>();
    const asTheyAre = (bytes: Buffer): Buffer => bytes;
    const call = client.makeUnaryRequest(`${SERVICE}/${rpc}`, asTheyAre, asTheyAre, message, new Metadata(), { deadline }, (error, bytes) =>
      resolve(error ?? bytes ?? Buffer.alloc(0)),
    );
    return { answer, cancel: () => call.cancel() };
  };
  const codeOf = async (answer: Promise<Buffer | ServiceError>): Promise<number> => {
    const it = await answer;
    return 'code' in it ? it.code : status.OK;
  };
  /** The answer's headers to what no gRPC client would send. */
  const raw = (headers: Record<string, string>, ...body: Buffer[]): Promise<IncomingHttpHeaders> => {
    const stream = session.request({ ':method': 'POST', ':path': `${SERVICE}/Version`, 'content-type': 'application/grpc', ...headers });
    for (const piece of body) stream.write(piece);
    stream.end();
    stream.on('error', () => undefined);
    stream.resume();
    return new Promise((resolve) => stream.once('response', resolve));
  };

  it('reads deadlines in any unit, and bounds what a timer can not wait for', () => {
    for (const asked of ['2592120S', '99999999S', '99999999M', '99999999H']) expect(timeoutMsOf(asked)).to.equal(2 ** 31 - 1);
    const read: Record<string, number> = { '2147483S': 2_147_483_000, '99999999m': 99_999_999, '5M': 300_000, '1H': 3_600_000, '0S': 0 };
    for (const [asked, ms] of Object.entries(read)) expect(timeoutMsOf(asked), asked).to.equal(ms);
    expect(timeoutMsOf('99999999u')).to.be.closeTo(100_000, 1);
    for (const asked of ['x', '123456789S', '-1S', '', undefined]) expect(timeoutMsOf(asked)).to.equal(undefined);
  });

  it('lets a call with a deadline in a month begin', async () => {
    for (const days of [30, 365])
      expect(await codeOf(ask('StopContainer', undefined, Date.now() + days * DAY_MS).answer)).to.equal(status.OK);
    expect(ops.map(({ deadlineMs }) => Math.round((deadlineMs - Date.now()) / DAY_MS))).to.deep.equal([25, 25]);
    expect(await codeOf(ask('StopContainer').answer)).to.equal(status.OK);
    expect(ops.at(-1)?.deadlineMs).to.equal(Infinity);
  });

  it('tells the work that its client has gone, whether it looks before or after, and not when it is answered', async () => {
    const { promise, resolve } = Promise.withResolvers<object>();
    reply = promise;
    const calls = [ask('StopContainer'), ask('StopContainer')];
    while (ops.length < 2) await sleep(1);
    expect(ops[0]?.signal.aborted).to.equal(false);
    for (const { cancel } of calls) cancel();
    for (let tries = 0; ops[0]?.signal.aborted === false && tries < 100; tries++) await sleep(10);
    expect(ops.map(({ signal }) => signal.aborted)).to.deep.equal([true, true]);
    resolve({});
    reply = Promise.resolve({});
    const answered = ask('StopContainer');
    expect(await codeOf(answered.answer)).to.equal(status.OK);
    await sleep(20);
    expect(ops[2]?.signal.aborted).to.equal(false);
  });

  it('aborts the work when its time is nearly up, a timeout', async () => {
    const { promise, resolve } = Promise.withResolvers<object>();
    reply = promise;
    const { answer } = ask('StopContainer', undefined, Date.now() + 300);
    while (ops.length < 1) await sleep(1);
    const { signal } = ops[0]!;
    await new Promise((done) => signal.addEventListener('abort', done));
    expect((signal.reason as Error).name).to.equal('TimeoutError');
    resolve({});
    expect(await codeOf(answer)).to.equal(status.OK);
  });

  it('takes requests of up to 16 MiB, in many frames, and refuses larger ones', async () => {
    // Field 1 of VersionRequest and of VersionResponse: a string.
    const request = (sizeBytes: number): Buffer => {
      const head = Buffer.from([0x0a, 0, 0, 0, 0]);
      const length = sizeBytes - head.length;
      for (let at = 0; at < 4; at++) head[at + 1] = ((length >> (7 * at)) & 0x7f) | (at < 3 ? 0x80 : 0);
      return Buffer.concat([head, Buffer.alloc(length, 'x')]);
    };
    const large = request(3 * MIB);
    expect(await ask('Version', large).answer).to.deep.equal(Buffer.concat([Buffer.from([0x0a]), varint(3 * MIB - 5), large.subarray(5)]));
    const [most, more] = await Promise.all([ask('StopContainer', request(16 * MIB)).answer, ask('Version', request(16 * MIB + 1)).answer]);
    expect(most).to.be.instanceOf(Buffer);
    expect(more).to.deep.include({ code: status.RESOURCE_EXHAUSTED, details: 'a request is larger than 16777216 bytes' });
    expect(await codeOf(ask('Version').answer), 'the connection lives').to.equal(status.OK);
  }).timeout(20_000);

  it('refuses what is no call of its services', async () => {
    const one = Buffer.alloc(5);
    expect(await raw({}, one))
      .to.include({ ':status': 200 })
      .and.not.have.property('grpc-status');
    expect(await raw({ 'content-type': 'text/plain' }, one)).to.include({ ':status': 415 });
    expect(await raw({ ':path': '/runtime.v1.RuntimeService/Nonsense' }, one)).to.include({ 'grpc-status': String(status.UNIMPLEMENTED) });
    const broken: Record<string, Buffer[]> = {
      'no message': [],
      'two messages': [one, one],
      'half a message': [Buffer.from([0, 0, 0, 0, 9, 1])],
      'half a prefix': [Buffer.from([0, 0])],
      'no protobuf': [Buffer.from([0, 0, 0, 0, 1, 0x0f])],
    };
    for (const [what, body] of Object.entries(broken))
      expect(await raw({}, ...body), what).to.include({ 'grpc-status': String(status.INTERNAL) });
    const compressed = Buffer.from([1, 0, 0, 0, 0]);
    expect(await raw({ 'grpc-encoding': 'gzip' }, compressed)).to.include({ 'grpc-status': String(status.UNIMPLEMENTED) });
    expect(await codeOf(ask('Version').answer)).to.equal(status.OK);
  });

  it('lets calls end when it closes, and ends those that take too long', async () => {
    const own = async (graceMs: number, answerAfterMs: number): Promise<number> => {
      const path = join(dir, 'closing.sock');
      const StopContainer = unary(
        (request: unknown) => request,
        () => sleep(answerAfterMs, {}),
      );
      const closing = await createCriServer({ runtime: { StopContainer } as never, image: {}, gantry: {}, log: silentLogger });
      await closing.listen(path);
      const other = new Client(`unix:${path}`, credentials.createInsecure());
      const code = new Promise<number>((resolve) =>
        other.makeUnaryRequest(
          `${SERVICE}/StopContainer`,
          () => Buffer.alloc(0),
          String,
          {},
          (error) => resolve(error?.code ?? status.OK),
        ),
      );
      await sleep(100);
      const begunMs = Date.now();
      await closing.close(graceMs);
      expect(Date.now() - begunMs).to.be.below(Math.min(graceMs, answerAfterMs) + 500);
      const result = await code;
      other.close();
      return result;
    };
    expect(await own(3000, 300)).to.equal(status.OK);
    expect(await own(100, 1500)).to.not.equal(status.OK);
  }).timeout(10_000);
});

/** protobuf's. */
function varint(value: number): Buffer {
  const bytes: number[] = [];
  for (; value > 0x7f; value >>>= 7) bytes.push((value & 0x7f) | 0x80);
  return Buffer.from([...bytes, value]);
}
