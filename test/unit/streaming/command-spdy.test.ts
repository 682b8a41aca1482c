import { expect } from 'chai';
import { silentLogger } from '../../../src/base/log.ts';
import type { StreamingServer, StreamingServerOptions } from '../../../src/streaming/server.ts';
import { createStreamingServer } from '../../../src/streaming/server.ts';
import { Refused, SpdyClient, upgradeToSpdy } from '../../lib/spdy-client.ts';
import { SpdyCommand, until, V4 } from './clients.ts';
import { FakeRuntime } from './fake-runtime.ts';

const PROTOCOLS = ['channel.k8s.io', 'v2.channel.k8s.io', 'v3.channel.k8s.io', 'v4.channel.k8s.io', 'v5.channel.k8s.io'];
const OUTPUTS = { stdout: true, stderr: true };

describe('streaming: exec and attach over SPDY', () => {
  let runtime: FakeRuntime;
  let server: StreamingServer;

  const start = async (limits: StreamingServerOptions['limits'] = {}): Promise<void> => {
    await server.close();
    server = await createStreamingServer({ runtime, log: silentLogger, limits });
  };
  beforeEach(async () => {
    runtime = new FakeRuntime();
    server = await createStreamingServer({ runtime, log: silentLogger });
  });
  afterEach(async () => {
    await server.close();
    expect([runtime.running, server.sessions], 'what runs on').to.deep.equal([0, 0]);
  });

  type Wanted = Parameters<typeof SpdyCommand.dial>[1];
  type Options = Parameters<typeof SpdyCommand.dial>[2];
  const exec = (cmd: string[], wanted: Wanted = OUTPUTS, options?: Options): Promise<SpdyCommand> =>
    SpdyCommand.dial(server.execUrl({ containerId: 'c', cmd, ...wanted }), wanted, options);

  for (const protocol of PROTOCOLS)
    describe(protocol, () => {
      const options = { protocols: [protocol] };
      const json = /^v[45]/.test(protocol);

      it('carries both outputs and success', async () => {
        const { stdout, stderr, error } = await (await exec(['both'], OUTPUTS, options)).result();
        expect([stdout, stderr, error]).to.deep.equal(['out', 'err', json ? '{"metadata":{},"status":"Success"}' : '']);
        expect(runtime.execs).to.deep.equal([{ containerId: 'c', command: ['both'], tty: false }]);
      });

      it('tells exit codes and errors', async () => {
        const { error } = await (await exec(['exit', '3'], OUTPUTS, options)).result();
        expect(json ? JSON.parse(error).details.causes : error).to.deep.equal(
          json ? [{ reason: 'ExitCode', message: '3' }] : 'command terminated with non-zero exit code: 3',
        );
        const failed = (await (await exec(['fail'], OUTPUTS, options)).result()).error;
        expect(json ? JSON.parse(failed).message : failed).to.equal('container "x" not found');
      });

      it('passes input on and its end', async () => {
        const command = await exec(['cat'], { stdin: true, stdout: true }, options);
        await command.streams['stdin']?.say('hello ');
        await command.streams['stdin']?.say('world');
        command.streams['stdin']?.end();
        expect((await command.result()).stdout).to.equal('hello world');
      });

      it('has one output with a terminal', async () => {
        const wanted = { stdin: true, stdout: true, tty: true };
        const { stdout } = await (await exec(['echo', 'hi'], wanted, options)).result();
        expect(stdout).to.equal('hi\n');
        expect(runtime.execs.at(-1)?.tty).to.equal(true);
      });
    });

  it('takes the first protocol of the client that it knows', async () => {
    const command = await exec(['both'], OUTPUTS, { protocols: ['v9.channel.k8s.io', 'v3.channel.k8s.io', V4] });
    expect(command.client.protocol).to.equal('v3.channel.k8s.io');
    await command.result();
  });

  it('passes sizes of the terminal on, the first one too, and passes over nonsense', async () => {
    const command = await exec(['sizes', '3'], { stdout: true, tty: true });
    const { resize } = command.streams;
    resize?.write('{"Width":80,"Height":24}\n{"Wid');
    resize?.write('th":100,"Height":50}\n{"Width":0,"Height":0}[]}{"Width":"x"}{"Height":70000,"Width":1}');
    resize?.write('{"Width":1,"Height":65535}\n');
    expect((await command.result()).stdout).to.equal('80x24 100x50 1x65535');
  });

  it('drops input that the command does not want', async () => {
    const command = await exec(['noInput'], { stdin: true, stdout: true });
    command.streams['stdin']?.write(Buffer.alloc(4 << 20));
    expect((await command.result()).stdout).to.equal('closed');
  });

  it('joins attach with the container, and its end is success', async () => {
    const wanted = { stdin: true, stdout: true, stderr: true };
    const command = await SpdyCommand.dial(server.attachUrl({ containerId: 'both', ...wanted }), wanted);
    const { stdout, stderr, error } = await command.result();
    expect([stdout, stderr, JSON.parse(error).status]).to.deep.equal(['out', 'err', 'Success']);
  });

  it('lets a client that is gone abort the session', async () => {
    const command = await exec(['sleep']);
    await until('the command runs', () => runtime.running === 1);
    command.client.transport.destroy();
    await until('it is aborted', () => runtime.running === 0);
    expect(String(runtime.aborted[0])).to.contain('the client closed the connection');
    expect(server.sessions).to.equal(0);
  });

  it('ends every session when it closes', async () => {
    const commands = await Promise.all([exec(['sleep']), exec(['yes']), exec(['cat'], { stdin: true, stdout: true })]);
    commands[1]?.streams['stdout']?.resume();
    await until('the commands run', () => runtime.running === 3);
    await server.close();
    expect(runtime.running).to.equal(0);
    await Promise.all(commands.map(({ client }) => client.closed));
    expect(commands[0]?.client.goneAway).to.equal(true);
  });

  it('does not close before a slow client has read everything', async () => {
    const command = await exec(['echo', 'x'.repeat(100_000)]);
    await until('the command has ended', () => runtime.running === 0);
    await new Promise((resolve) => setTimeout(resolve, 300));
    expect(command.client.transport.destroyed).to.equal(false);
    expect((await command.result()).stdout).to.have.length(100_001);
  });

  it('leaves a client that never closes after a while', async () => {
    await start({ lingerMs: 100 });
    const command = await exec(['both']);
    await command.client.closed;
    await until('the session is over', () => server.sessions === 0);
  });

  it('gives up on a client that does not open its streams, and tells it', async () => {
    await start({ streamCreationMs: 100 });
    const client = await SpdyClient.dial(server.execUrl({ containerId: 'c', cmd: ['both'], ...OUTPUTS }), { protocols: [V4] });
    const error = await client.open({ streamtype: 'error' });
    await client.open({ streamtype: 'stdout' });
    expect(JSON.parse(String(await error.all())))
      .to.include({ reason: 'Timeout' })
      .and.to.have.property('message')
      .that.contains('stderr');
    await client.closed;
    expect(runtime.execs).to.deep.equal([]);
  });

  it('refuses streams that were not asked for, or twice', async () => {
    const client = await SpdyClient.dial(server.execUrl({ containerId: 'c', cmd: ['both'], ...OUTPUTS }), { protocols: [V4] });
    await client.open({ streamtype: 'error' });
    for (const headers of [{ streamtype: 'error' }, { streamtype: 'stdin' }, { streamtype: 'x' }, {}])
      expect(await client.open(headers as Record<string, string>).catch(String)).to.contain('the stream was reset: 3');
    await client.open({ streamtype: 'stdout' });
    expect(String(await (await client.open({ streamtype: 'stderr' })).all())).to.equal('err');
    expect(await client.open({ streamtype: 'stdin' }).catch(String)).to.contain('the stream was reset: 3');
    await client.close();
  });

  it('answers pings', async () => {
    const command = await exec(['sleep']);
    command.client.ping(1);
    command.client.ping(77);
    await until('pongs', () => command.client.pongs.length === 2);
    expect(command.client.pongs).to.deep.equal([1, 77]);
    await command.client.close();
    await until('the session is over', () => server.sessions === 0);
  });

  describe('refusals', () => {
    const refusal = async (url: string, protocols: readonly string[] = [V4]): Promise<[number, string]> => {
      const error = await upgradeToSpdy(url, { protocols }).catch((refused: unknown) => refused);
      expect(error).to.be.instanceOf(Refused);
      return [(error as Refused).status, (error as Refused).message];
    };

    it('a url works once, and for its verb only', async () => {
      const url = server.execUrl({ containerId: 'c', cmd: ['both'], ...OUTPUTS });
      await (await SpdyCommand.dial(url, OUTPUTS)).result();
      expect(await refusal(url)).to.deep.equal([404, 'streaming url "exec" not found']);
      const wrong = server.execUrl({ containerId: 'c', cmd: ['both'], ...OUTPUTS }).replace('/exec/', '/attach/');
      expect((await refusal(wrong))[0]).to.equal(404);
      expect((await refusal(`http://127.0.0.1:${server.port}/exec/../../etc`))[0]).to.equal(404);
    });

    it('a url dies of age, and there are only so many', async () => {
      await start({ maxTokens: 2, tokenLifetimeMs: 50 });
      const url = (): string => server.execUrl({ containerId: 'c', cmd: ['both'], ...OUTPUTS });
      const old = url();
      url();
      expect(url)
        .to.throw(/2 streaming urls/)
        .with.property('kind', 'resourceExhausted');
      await new Promise((resolve) => setTimeout(resolve, 60));
      expect((await refusal(old))[0]).to.equal(404);
      await (await SpdyCommand.dial(url(), OUTPUTS)).result();
    });

    it('names the protocols that it would take', async () => {
      const url = server.execUrl({ containerId: 'c', cmd: ['both'], ...OUTPUTS });
      const [status, message] = await refusal(url, ['v9.channel.k8s.io']);
      expect(status).to.equal(403);
      expect(message).to.contain('client supports v9.channel.k8s.io, server accepts v5.channel.k8s.io, v4');
      expect(await refusal(server.attachUrl({ containerId: 'c', stdout: true }), [])).to.deep.equal([
        400,
        'unable to upgrade: no X-Stream-Protocol-Version header',
      ]);
    });

    it('answers plain requests', async () => {
      const url = server.execUrl({ containerId: 'c', cmd: ['both'], ...OUTPUTS });
      expect((await fetch(url)).status).to.equal(400);
      expect((await fetch(`http://127.0.0.1:${server.port}/`)).status).to.equal(404);
      // Asking the wrong way did not use the url up.
      await (await SpdyCommand.dial(url, OUTPUTS)).result();
    });

    it('names the field of a bad request', () => {
      const words = (work: () => unknown, text: string): unknown => expect(work).to.throw(text).with.property('kind', 'invalidArgument');
      words(() => server.execUrl({ cmd: ['a'], stdout: true }), 'container_id: is required');
      words(() => server.execUrl({ containerId: 'c' }), 'stdin: at least one');
      words(() => server.attachUrl({ containerId: 'c', tty: true, stdout: true, stderr: true }), 'stderr: a terminal');
      words(() => server.portForwardUrl({ port: [80] }), 'pod_sandbox_id: is required');
      words(() => server.portForwardUrl({ podSandboxId: 'p', port: [70_000] }), 'port: 70000 is no port');
    });
  });

  describe('flow control', () => {
    it('neither bothers clients that do none, nor waits for them', async () => {
      const command = await exec(['cat'], { stdin: true, stdout: true });
      const size = 3 << 20;
      const sent = (async () => {
        for (let i = 0; i < size; i += 50_000) await command.streams['stdin']?.say(Buffer.alloc(Math.min(50_000, size - i)));
        command.streams['stdin']?.end();
      })();
      const [{ stdout }] = await Promise.all([command.result(), sent]);
      expect([stdout.length, command.client.windowUpdates]).to.deep.equal([size, 0]);
    });

    it('obeys windows and opens them for clients that do it', async () => {
      const command = await exec(['cat'], { stdin: true, stdout: true }, { flowControl: 'obeys', initialWindowBytes: 10_000 });
      const { stdin, stdout } = command.streams;
      for (let i = 0; i < 30; i++) void stdin?.write(Buffer.alloc(100_000));
      stdin?.end();
      expect((await command.result()).stdout.length).to.equal(3_000_000);
      expect(stdout?.overrunBytes).to.equal(0);
      expect(command.client.windowUpdates).to.be.greaterThan(20);
    });

    it('opens windows for a client that stops exactly at their end', async () => {
      const command = await exec(['cat'], { stdin: true, stdout: true });
      const result = command.result();
      for (let i = 1; i <= 4; i++) {
        command.streams['stdin']?.write(Buffer.alloc(65_536));
        await until('window updates of stream and session', () => command.client.windowUpdates === 2 * i);
      }
      command.streams['stdin']?.end();
      expect((await result).stdout.length).to.equal(262_144);
    });
  });
});
