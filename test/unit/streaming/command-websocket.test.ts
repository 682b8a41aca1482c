import { expect } from 'chai';
import { silentLogger } from '../../../src/base/log.ts';
import type { StreamingServer } from '../../../src/streaming/server.ts';
import { createStreamingServer } from '../../../src/streaming/server.ts';
import { until, WsCommand } from './clients.ts';
import { FakeRuntime } from './fake-runtime.ts';

const PROTOCOLS = ['', 'channel.k8s.io', 'base64.channel.k8s.io', 'v4.channel.k8s.io', 'v4.base64.channel.k8s.io', 'v5.channel.k8s.io'];
const [STDIN, STDOUT, ERROR, RESIZE] = [0, 1, 3, 4];
const OUTPUTS = { stdout: true, stderr: true };

describe('streaming: exec and attach over WebSockets', () => {
  let runtime: FakeRuntime;
  let server: StreamingServer;

  beforeEach(async () => {
    runtime = new FakeRuntime();
    server = await createStreamingServer({ runtime, log: silentLogger, limits: { maxMessageBytes: 200_000 } });
  });
  afterEach(async () => {
    await server.close();
    expect([runtime.running, server.sessions], 'what runs on').to.deep.equal([0, 0]);
  });

  const exec = (cmd: string[], protocol: string, wanted: object = OUTPUTS): Promise<WsCommand> =>
    WsCommand.dial(server.execUrl({ containerId: 'c', cmd, ...wanted }), protocol);

  for (const protocol of PROTOCOLS)
    describe(protocol || 'no subprotocol', () => {
      const json = /^v[45]/.test(protocol);

      it('carries both outputs and success, and closes', async () => {
        const command = await exec(['both'], protocol);
        expect(command.ws.protocol).to.equal(protocol);
        expect(await command.result()).to.deep.equal({
          stdout: 'out',
          stderr: 'err',
          error: json ? '{"metadata":{},"status":"Success"}' : '',
          code: 1000,
        });
        expect(command.received.get(STDOUT)?.[0]?.length, 'the empty first message').to.equal(0);
      });

      it('tells exit codes', async () => {
        const { error } = await (await exec(['exit', '3'], protocol)).result();
        expect(json ? JSON.parse(error).details.causes : error).to.deep.equal(
          json ? [{ reason: 'ExitCode', message: '3' }] : 'command terminated with non-zero exit code: 3',
        );
      });

      it('passes input on', async () => {
        const command = await exec(['cat'], protocol, { stdin: true, stdout: true });
        const bytes = Buffer.from(Array.from({ length: 100_000 }, (_, i) => i % 256));
        command.send(STDIN, bytes);
        await until('the echo', () => Buffer.concat(command.received.get(STDOUT) ?? []).length === bytes.length);
        expect(Buffer.concat(command.received.get(STDOUT) ?? []).equals(bytes)).to.equal(true);
        command.ws.close();
        await until('the session is over', () => runtime.running === 0);
      });

      it('passes sizes of the terminal on', async () => {
        const command = await exec(['sizes', '2'], protocol, { stdout: true, tty: true });
        command.send(RESIZE, '{"Width":80,"Height":24}');
        command.send(RESIZE, '{"Width":81,"Height":25}\n');
        expect((await command.result()).stdout).to.equal('80x24 81x25');
      });
    });

  it('v5: ends the input at the close signal', async () => {
    const command = await exec(['cat'], 'v5.channel.k8s.io', { stdin: true, stdout: true });
    command.send(STDIN, 'hello');
    command.ws.send(Buffer.of(255, STDIN));
    const { stdout, code } = await command.result();
    expect([stdout, code]).to.deep.equal(['hello', 1000]);
  });

  it('v5: takes a wrong close signal for a violation', async () => {
    const command = await exec(['cat'], 'v5.channel.k8s.io', { stdin: true, stdout: true });
    command.ws.send(Buffer.of(255, STDIN, 1));
    expect(await command.closed).to.deep.equal({ code: 1002, reason: 'websocket: close signal of 3 bytes' });
    await until('the session is over', () => runtime.running === 0);
  });

  it('passes over empty messages, unknown channels and those that go the other way', async () => {
    const command = await exec(['cat'], 'v5.channel.k8s.io', { stdin: true, stdout: true });
    command.ws.send(Buffer.alloc(0));
    for (const channel of [STDOUT, 2, ERROR, 9, 254]) command.send(channel, 'x');
    command.ws.send(Buffer.of(255, 99));
    command.send(STDIN, 'in');
    command.ws.send(Buffer.of(255, STDIN));
    expect((await command.result()).stdout).to.equal('in');
  });

  it('takes what is not base64 for a violation', async () => {
    const command = await exec(['cat'], 'base64.channel.k8s.io', { stdin: true, stdout: true });
    command.ws.send('0***');
    expect((await command.closed).code).to.equal(1002);
    await until('the session is over', () => runtime.running === 0);
  });

  it('takes no message that is too large', async () => {
    const command = await exec(['cat'], 'v4.channel.k8s.io', { stdin: true, stdout: true });
    command.send(STDIN, Buffer.alloc(300_000));
    expect((await command.closed).code).to.equal(1009);
    await until('the session is over', () => runtime.running === 0);
  });

  it('joins attach with the container', async () => {
    const command = await WsCommand.dial(server.attachUrl({ containerId: 'both', ...OUTPUTS }), 'v4.channel.k8s.io');
    const { stdout, stderr, error } = await command.result();
    expect([stdout, stderr, JSON.parse(error).status]).to.deep.equal(['out', 'err', 'Success']);
  });

  it('lets a client that closes, or vanishes, abort the session', async () => {
    for (const leave of [(command: WsCommand) => command.ws.close(), (command: WsCommand) => command.ws.terminate()]) {
      const command = await exec(['sleep'], 'v5.channel.k8s.io');
      await until('the command runs', () => runtime.running === 1);
      leave(command);
      await until('it is aborted', () => runtime.running === 0);
    }
    expect(runtime.aborted).to.have.length(2);
  });

  it('refuses other subprotocols and other requests', async () => {
    expect(await exec(['both'], 'v9.channel.k8s.io').catch(String)).to.contain('Unexpected server response: 403');
    const url = server.execUrl({ containerId: 'c', cmd: ['both'], ...OUTPUTS });
    expect(await WsCommand.dial(`${url}x`, 'v4.channel.k8s.io').catch(String)).to.contain('404');
  });
});
