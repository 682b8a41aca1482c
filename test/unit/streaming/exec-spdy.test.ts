import { expect } from 'chai';
import { silentLogger } from '../../../src/base/log.ts';
import type { StreamingServer } from '../../../src/streaming/server.ts';
import { createStreamingServer } from '../../../src/streaming/server.ts';
import { SpdyClient } from '../../lib/spdy-client.ts';
import { FakeRuntime } from './fake-runtime.ts';

const V4 = 'v4.channel.k8s.io';

interface Exec {
  readonly client: SpdyClient;
  readonly stdin: Awaited<ReturnType<SpdyClient['open']>> | undefined;
  readonly result: Promise<{ stdout: string; stderr: string; status: string }>;
}

describe('streaming exec over SPDY', () => {
  let runtime: FakeRuntime;
  let server: StreamingServer;

  beforeEach(async () => {
    runtime = new FakeRuntime();
    server = await createStreamingServer({ runtime, log: silentLogger });
  });
  afterEach(async () => {
    await server.close();
    expect(runtime.running, 'sessions that run on').to.equal(0);
  });

  async function exec(
    cmd: string[],
    options: { protocol?: string; stdin?: boolean; tty?: boolean; flowControl?: 'obeys' } = {},
  ): Promise<Exec> {
    const { protocol = V4, stdin = false, tty = false, flowControl } = options;
    const url = server.execUrl({ containerId: 'c', cmd, stdin, tty, stdout: true, stderr: !tty });
    const client = await SpdyClient.dial(url, { protocols: [protocol], ...(flowControl && { flowControl }) });
    const error = await client.open({ streamtype: 'error' });
    const input = stdin ? await client.open({ streamtype: 'stdin' }) : undefined;
    const stdout = await client.open({ streamtype: 'stdout' });
    const stderr = tty ? undefined : await client.open({ streamtype: 'stderr' });
    const all = async (): Promise<{ stdout: string; stderr: string; status: string }> => {
      const [out, err, status] = await Promise.all([stdout.all(), stderr?.all(), error.all()]);
      await client.close();
      return { stdout: String(out), stderr: String(err ?? ''), status: String(status) };
    };
    return { client, stdin: input, result: all() };
  }

  it('writes both outputs and success', async () => {
    const { result } = await exec(['both']);
    expect(await result).to.deep.equal({ stdout: 'out', stderr: 'err', status: '{"metadata":{},"status":"Success"}' });
    expect(runtime.execs).to.deep.equal([{ containerId: 'c', command: ['both'], tty: false }]);
  });

  it('tells a command its input and its end', async () => {
    const { stdin, result } = await exec(['cat'], { stdin: true });
    await stdin?.say('hello ');
    await stdin?.say('world');
    stdin?.end();
    expect((await result).stdout).to.equal('hello world');
  });

  it('tells the exit code as v4 does', async () => {
    const { status } = await (await exec(['exit', '3'])).result;
    expect(JSON.parse(status)).to.deep.include({ status: 'Failure', reason: 'NonZeroExitCode' });
    expect(JSON.parse(status).details.causes).to.deep.equal([{ reason: 'ExitCode', message: '3' }]);
  });
});
