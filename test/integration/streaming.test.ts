import { createHash, randomBytes } from 'node:crypto';
import { closeSync, createReadStream, openSync, readdirSync, readFileSync, writeFileSync, writeSync } from 'node:fs';
import type { ChildProcess } from 'node:child_process';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { connect } from 'node:net';
import type { AddressInfo, Socket } from 'node:net';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { status as Code } from '@grpc/grpc-js';
import { expect } from 'chai';
import { execa } from 'execa';
import type { ContainerConfig } from '../../src/gen/cri/runtime/v1/ContainerConfig.ts';
import type { PodSandboxConfig } from '../../src/gen/cri/runtime/v1/PodSandboxConfig.ts';
import { Bed, eventually } from '../lib/bed.ts';
import { Authority } from '../lib/certificates.ts';
import { crictlProgram } from '../lib/programs.ts';
import { Pty } from '../lib/pty.ts';
import { SpdyCommand, WsCommand } from '../unit/streaming/clients.ts';
import { size } from '../lib/size.ts';

/** Of the transfers; issue 3 asks for 1024. */
const TRANSFER_MIB = size('STREAM_MIB', 64, 1024);
const SESSIONS = size('STREAM_SESSIONS', 200, 10_000);
const MIB = 1 << 20;
const IDLE = 'trap "exit 0" TERM; while :; do sleep 0.2; done';
const OWN_PID = { namespaceOptions: { pid: 'CONTAINER' } } as const;

async function digest(stream: AsyncIterable<Buffer>): Promise<string> {
  const hash = createHash('sha256');
  for await (const chunk of stream) hash.update(chunk);
  return hash.digest('hex');
}

/** A file of random bytes, not held in memory. */
function randomFile(path: string, sizeMib: number): string {
  const fd = openSync(path, 'w');
  for (let written = 0; written < sizeMib; written++) writeSync(fd, randomBytes(MIB));
  closeSync(fd);
  return path;
}

/** Exec, Attach and PortForward as clients see them: crictl, with and without a terminal, and clients that misbehave. */
describe('streaming', function () {
  this.timeout(120_000 + TRANSFER_MIB * 500 + SESSIONS * 100);
  let bed: Bed;
  let program = '';
  let config: PodSandboxConfig;
  let pod = '';
  let idle = '';
  let ca = '';

  before(async function () {
    program = crictlProgram(this);
    bed = await Bed.make();
    writeFileSync(
      join(bed.gantry.dir, 'crictl.yaml'),
      `runtime-endpoint: unix://${bed.gantry.socket}\nimage-endpoint: unix://${bed.gantry.socket}\ntimeout: 20\n`,
    );
    config = bed.podConfig('streams', { linux: { securityContext: OWN_PID } });
    pod = await bed.runPod(config);
    idle = await run('idle', IDLE);
  });
  after(() => bed?.end());

  const run = (name: string, script: string, change: ContainerConfig = {}): Promise<string> =>
    bed.runContainer(pod, config, bed.containerConfig(name, script, { linux: { securityContext: OWN_PID }, ...change }));
  const remove = async (containerId: string): Promise<void> => {
    await bed.cri.runtime('stopContainer', { containerId, timeout: 0 });
    await bed.cri.runtime('removeContainer', { containerId });
  };
  const argv = (...args: string[]): string[] => [program, '--config', join(bed.gantry.dir, 'crictl.yaml'), ...args];
  const crictl = (args: string[], options: { input?: string } = {}) => {
    const [file = '', ...rest] = argv(...args);
    return execa(file, rest, { reject: false, ...options });
  };
  const processes = async (id: string): Promise<string> => {
    const { stdout } = await bed.cri.runtime('execSync', { containerId: id, cmd: ['ps', '-o', 'args'], timeout: 10 });
    return String(stdout);
  };
  const execUrl = async (cmd: string[], wanted: { stdin?: boolean; stdout?: boolean; stderr?: boolean; tty?: boolean }) =>
    (await bed.cri.runtime('exec', { containerId: idle, cmd, ...wanted })).url;
  const descriptors = (): number => readdirSync(`/proc/${bed.gantry.pid}/fd`).length;

  describe('exec', () => {
    for (const transport of ['spdy', 'websocket']) {
      it(`carries input, both outputs and the exit code (crictl, ${transport})`, async () => {
        const exec = (args: string[], input?: string) => crictl(['exec', '-r', transport, ...args], input === undefined ? {} : { input });
        expect((await exec(['-i', idle, 'cat'], 'from stdin\n')).stdout).to.equal('from stdin');
        const { stdout, stderr, exitCode } = await exec([idle, 'sh', '-c', 'echo out; echo err >&2; exit 7']);
        expect(stdout).to.equal('out');
        expect(stderr).to.include('err').and.include('7');
        expect(exitCode).to.not.equal(0);
        const missing = await exec([idle, 'no-such-command']);
        expect(missing.stderr).to.match(/no-such-command/);
        expect(missing.exitCode).to.not.equal(0);
      });

      it(`is a terminal for a person (crictl exec -it, ${transport})`, async () => {
        using pty = new Pty(argv('exec', '-r', transport, '-it', idle, 'sh'), { rows: 37, columns: 101 });
        await pty.shows(/[#$] /);
        pty.type('tty; stty size; echo $TERM\n');
        await pty.shows('37 101');
        await pty.shows('/dev/pts/');
        await pty.shows('xterm');
        pty.resize({ rows: 50, columns: 160 });
        await eventually('the new size to arrive', async () => {
          pty.clear();
          pty.type('stty size\n');
          await pty.shows(/\d+ \d+\r\n/);
          return pty.screen.includes('50 160');
        });
        pty.type('sleep 4323\n');
        await eventually('sleep to run', async () => (await processes(idle)).includes('sleep 4323'));
        pty.type('\u0003');
        pty.clear();
        pty.type('echo code $?\n');
        await pty.shows('code 130');
        expect(await processes(idle)).to.not.include('4323');
        pty.type('exit 5\n');
        expect(await pty.exitCode).to.not.equal(0);
      });

      it(`carries ${TRANSFER_MIB} MiB both ways, every byte (crictl, ${transport})`, async () => {
        const path = randomFile(join(bed.gantry.dir, 'random'), TRANSFER_MIB);
        const input = openSync(path, 'r');
        const [file = '', ...rest] = argv('exec', '-r', transport, '-i', idle, 'cat');
        const startMs = Date.now();
        const child = spawn(file, rest, { stdio: [input, 'pipe', 'inherit'] });
        closeSync(input);
        const [got] = await Promise.all([digest(child.stdout as AsyncIterable<Buffer>), once(child, 'exit')]);
        console.log(`        ${TRANSFER_MIB} MiB there and back in ${Date.now() - startMs} ms`);
        expect(got).to.equal(await digest(createReadStream(path) as AsyncIterable<Buffer>));
      });
    }

    it('ends with the command, whoever keeps its pipes (R15)', async () => {
      const startMs = Date.now();
      expect((await crictl(['exec', idle, 'sh', '-c', 'echo done; sleep 4324 &'])).stdout).to.equal('done');
      expect(Date.now() - startMs).to.be.lessThan(5000);
      await crictl(['exec', idle, 'pkill', '-f', 'sleep 4324']);
    });

    it('does not outlive its client, however it hides (R14)', async () => {
      for (const flags of ['-i', '-it']) {
        const script = '(setsid sh -c "sleep 4325 & sleep 4325" &); setsid sleep 4325 & trap "" HUP TERM; echo on; sleep 4325';
        using pty = new Pty(argv('exec', flags, idle, 'sh', '-c', script), { rows: 24, columns: 80 });
        await pty.shows('on');
        const [client = 0] = readdirSync('/proc')
          .filter((name) => /^\d+$/.test(name))
          .map(Number)
          .filter((pid) => commandLine(pid).startsWith(program) && commandLine(pid).includes('4325'));
        process.kill(client, 'SIGKILL');
        await eventually('its processes to go', async () => !(await processes(idle)).includes('4325'));
      }
    });

    it('holds a command back whose client does not read, and loses nothing', async () => {
      const wanted = { stdout: true };
      const command = await SpdyCommand.dial(await execUrl(['seq', '1', '3000000'], wanted), wanted);
      await new Promise((resolve) => setTimeout(resolve, 1500));
      expect(await processes(idle)).to.include('seq 1 3000000');
      const { stdout } = await command.result();
      expect(stdout.length).to.equal(22_888_896);
      expect(stdout.endsWith('\n3000000\n')).to.equal(true);
    });

    it(`leaves nothing of ${SESSIONS} sessions`, async () => {
      const once = async (index: number): Promise<void> => {
        const wanted = index % 3 === 0 ? { stdin: true, stdout: true, tty: true } : { stdin: true, stdout: true, stderr: true };
        const url = await execUrl(['echo', 'hi'], wanted);
        const result =
          index % 2 === 0 ? (await SpdyCommand.dial(url, wanted)).result() : (await WsCommand.dial(url, 'v5.channel.k8s.io')).result();
        expect((await result).stdout.trim()).to.equal('hi');
      };
      await Promise.all(Array.from({ length: 8 }, (_, index) => once(index)));
      const before = descriptors();
      for (let done = 0; done < SESSIONS; done += 8) await Promise.all(Array.from({ length: 8 }, (_, index) => once(index)));
      await eventually('the descriptors to be closed', () => descriptors() <= before + 2);
      expect(await processes(idle)).to.not.include('echo hi');
    });

    it('refuses what can not be', async () => {
      const refused = async (request: object, code: Code, words: RegExp): Promise<void> => {
        const error = await bed.cri.runtime('exec', request as never).then(
          () => expect.fail('it was not refused'),
          (why: { code: number; details: string }) => why,
        );
        expect([error.code, error.details]).to.satisfy(
          ([got, text]: [number, string]) => got === code && words.test(text),
          `${error.code} ${error.details}`,
        );
      };
      await refused({ containerId: '', cmd: ['true'], stdout: true }, Code.INVALID_ARGUMENT, /container_id/);
      await refused({ containerId: idle, cmd: [], stdout: true }, Code.INVALID_ARGUMENT, /cmd/);
      await refused({ containerId: idle, cmd: ['true'] }, Code.INVALID_ARGUMENT, /stdin, stdout and stderr/);
      await refused({ containerId: idle, cmd: ['true'], tty: true, stdout: true, stderr: true }, Code.INVALID_ARGUMENT, /^stderr: .*tty/);
      await refused({ containerId: 'f00d', cmd: ['true'], stdout: true }, Code.NOT_FOUND, /f00d/);
      const ended = await run('ended', 'exit 0');
      await eventually('it to end', async () => (await bed.status(ended)).state === 'CONTAINER_EXITED');
      await refused({ containerId: ended, cmd: ['true'], stdout: true }, Code.FAILED_PRECONDITION, /exited/);
      await remove(ended);
    });
  });

  describe('attach', () => {
    const shell = 'while read line; do echo "out $line"; echo "err $line" >&2; [ "$line" = quit ] && exit 3; done';

    it('connects several clients; one that leaves ends nothing', async () => {
      const id = await run('attached', shell, { stdin: true });
      const children: ChildProcess[] = [];
      const outputs: string[] = [];
      for (const transport of ['spdy', 'websocket']) {
        const [file = '', ...rest] = argv('attach', '-r', transport, '-i', id);
        const child = spawn(file, rest, { stdio: ['pipe', 'pipe', 'ignore'] });
        const index = children.push(child) - 1;
        outputs.push('');
        child.stdout.setEncoding('utf8').on('data', (text: string) => (outputs[index] += text));
      }
      const [first, second] = children;
      await eventually('both to be attached', () => {
        first?.stdin?.write('ping\n');
        return outputs.every((text) => text.includes('out ping'));
      });
      first?.kill('SIGKILL');
      second?.stdin?.write('still here\n');
      await eventually('the other to go on', () => outputs[1]?.includes('out still here') === true);
      second?.stdin?.write('quit\n');
      await once(second as ChildProcess, 'exit');
      await eventually('the container to end', async () => (await bed.status(id)).state === 'CONTAINER_EXITED');
      expect((await bed.status(id)).exitCode).to.equal(3);
      expect(bed.logOf('streams', 'attached')).to.include('out still here').and.include('err quit');
      await remove(id);
    });

    it('is a terminal for a person (crictl attach -it)', async () => {
      const id = await run('terminal', 'while :; do sh; done', { stdin: true, tty: true });
      using pty = new Pty(argv('attach', '-it', id), { rows: 41, columns: 111 });
      await eventually('the size to arrive', async () => {
        pty.clear();
        pty.type('stty size\n');
        await pty.shows(/\d+ \d+\r\n/);
        return pty.screen.includes('41 111');
      });
      pty.resize({ rows: 30, columns: 90 });
      await eventually('the new size to arrive', async () => {
        pty.clear();
        pty.type('stty size\n');
        await pty.shows(/\d+ \d+\r\n/);
        return pty.screen.includes('30 90');
      });
      await remove(id);
      await pty.exitCode;
    });

    it('ends stdin with the first client, where the container asks for that', async () => {
      const id = await run('once', 'cat; echo the end', { stdin: true, stdinOnce: true });
      const { stdout } = await crictl(['attach', '-i', id], { input: 'only this\n' });
      expect(stdout).to.include('only this');
      await eventually('the container to end', async () => (await bed.status(id)).state === 'CONTAINER_EXITED');
      expect(bed.logOf('streams', 'once')).to.equal('only this\nthe end\n');
      await remove(id);
    });

    it('lets a client go that does not read; container, log and the other client go on', async () => {
      const sizeBytes = 24_000_000;
      const id = await run('slow', `read go; yes ${'x'.repeat(4000)} | head -c ${sizeBytes}; echo; exit 2`, { stdin: true });
      const wanted = { stdin: true, stdout: true };
      const url = async (): Promise<string> => (await bed.cri.runtime('attach', { containerId: id, ...wanted })).url;
      const slow = await SpdyCommand.dial(await url(), { stdin: true, stdout: true });
      const quick = await SpdyCommand.dial(await url(), wanted);
      const heard = quick.result();
      await new Promise((resolve) => setTimeout(resolve, 300));
      quick.streams['stdin']?.write('go\n');
      expect((await heard).stdout.length).to.equal(sizeBytes + 1);
      await eventually('the container to end', async () => (await bed.status(id)).exitCode === 2);
      expect(bed.logOf('streams', 'slow').length).to.be.greaterThan(sizeBytes);
      const { stdout, error } = await slow.result();
      expect(stdout.length).to.be.lessThan(sizeBytes);
      expect(error).to.not.include('Success');
      await remove(id);
    });

    it('refuses a container that has ended', async () => {
      const id = await run('gone', 'exit 0');
      await eventually('it to end', async () => (await bed.status(id)).state === 'CONTAINER_EXITED');
      const error = await bed.cri.runtime('attach', { containerId: id, stdout: true }).catch((why: unknown) => why);
      expect(error).to.include({ code: Code.FAILED_PRECONDITION });
      await remove(id);
    });
  });

  describe('port-forward', () => {
    const forward = async (
      podId: string,
      remote: number,
      transport = 'spdy',
    ): Promise<{ port: number; log: () => string; end: () => Promise<void> }> => {
      const probe = createServer().listen(0, '127.0.0.1');
      await once(probe, 'listening');
      const { port } = probe.address() as AddressInfo;
      probe.close();
      const [file = '', ...rest] = argv('port-forward', '-r', transport, podId, `${port}:${remote}`);
      const child = spawn(file, rest, { stdio: ['ignore', 'pipe', 'pipe'] });
      let text = '';
      for (const stream of [child.stdout, child.stderr]) stream.setEncoding('utf8').on('data', (part: string) => (text += part));
      await eventually('it to listen', () => text.includes('Forwarding from'));
      return {
        port,
        log: () => text,
        async end() {
          child.kill('SIGTERM');
          if (child.exitCode === null && child.signalCode === null) await once(child, 'exit');
        },
      };
    };
    const dial = async (port: number): Promise<Socket> => {
      const socket = connect({ port, host: '127.0.0.1', allowHalfOpen: true });
      await once(socket, 'connect');
      return socket;
    };

    for (const transport of ['spdy', 'websocket']) {
      it(`carries every byte of connections in parallel (${transport})`, async () => {
        const server = await run(`echo-${transport}`, 'exec nc -ll -p 9 -e cat');
        const { port, end } = await forward(pod, 9, transport);
        const path = randomFile(join(bed.gantry.dir, 'forwarded'), Math.min(TRANSFER_MIB, 64));
        const wanted = await digest(createReadStream(path) as AsyncIterable<Buffer>);
        const startMs = Date.now();
        const got = await Promise.all(
          Array.from({ length: 4 }, async () => {
            const socket = await dial(port);
            createReadStream(path).pipe(socket);
            return digest(socket as AsyncIterable<Buffer>);
          }),
        );
        console.log(`        4 x ${Math.min(TRANSFER_MIB, 64)} MiB there and back in ${Date.now() - startMs} ms`);
        expect(got).to.deep.equal(Array(4).fill(wanted));
        await end();
        await remove(server);
      });
    }

    it('reaches who listens on nothing but the loopback of the pod', async () => {
      const server = await run('loopback', 'exec httpd -f -p 127.0.0.1:8080 -h /www');
      const { port, end } = await forward(pod, 8080);
      await eventually(
        'an answer',
        async () => (await (await fetch(`http://127.0.0.1:${port}/index.html`)).text()) === 'hello from gantry\n',
      );
      await end();
      await remove(server);
    });

    // client-go ends the whole forwarding after one such error.
    it('says which pod and which port refuse', async () => {
      const { port, log, end } = await forward(pod, 4444);
      const socket = await dial(port);
      for await (const part of socket) expect.fail(`${String(part)} from nobody`);
      await eventually('the error to be told', () => /connection refused/.test(log()) && log().includes('4444') && log().includes(pod));
      await end();
    });

    it("reaches the node's loopback where the pod has its network", async () => {
      const hostConfig = bed.podConfig('on-host');
      const securityContext = { namespaceOptions: { pid: 'CONTAINER', network: 'NODE' } } as const;
      const onHost = { ...hostConfig, linux: { ...hostConfig.linux, securityContext } };
      const hostPod = await bed.runPod(onHost);
      const server = createServer((socket) => socket.end('from the node\n')).listen(0, '127.0.0.1');
      await once(server, 'listening');
      const { port, end } = await forward(hostPod, (server.address() as AddressInfo).port);
      const socket = await dial(port);
      const parts: Buffer[] = [];
      for await (const part of socket) parts.push(part as Buffer);
      expect(String(Buffer.concat(parts))).to.equal('from the node\n');
      await end();
      server.close();
      await bed.cri.runtime('stopPodSandbox', { podSandboxId: hostPod });
      await bed.cri.runtime('removePodSandbox', { podSandboxId: hostPod });
    });

    it('refuses ports that are none, and pods that are not ready', async () => {
      const refused = (podSandboxId: string, port: number[]) =>
        bed.cri.runtime('portForward', { podSandboxId, port }).catch((why: unknown) => why);
      expect(await refused(pod, [0])).to.include({ code: Code.INVALID_ARGUMENT });
      expect(await refused(pod, [70_000])).to.include({ code: Code.INVALID_ARGUMENT });
      expect(await refused('', [80])).to.include({ code: Code.INVALID_ARGUMENT });
      expect(await refused('f00d', [80])).to.include({ code: Code.NOT_FOUND });
    });
  });

  // Last: the daemon is another one afterwards.
  describe('the daemon', () => {
    it('ends the sessions when it stops; containers go on', async () => {
      const wanted = { stdin: true, stdout: true };
      const command = await SpdyCommand.dial(await execUrl(['sh', '-c', 'setsid sleep 4326 & echo on; sleep 4326'], wanted), wanted);
      const attached = await SpdyCommand.dial((await bed.cri.runtime('attach', { containerId: idle, stdout: true })).url, { stdout: true });
      await eventually('it to run', async () => (await processes(idle)).includes('4326'));
      const pid = await bed.pidOf(idle);
      await bed.gantry.stop();
      await Promise.all([command.client.closed, attached.client.closed]);
      await bed.gantry.start();
      expect(await bed.pidOf(idle)).to.equal(pid);
      expect(await processes(idle)).to.not.include('4326');
    });

    it('serves over TLS when it has a certificate', async () => {
      await bed.gantry.stop();
      const authority = new Authority(join(bed.gantry.dir, 'tls'), 'streams');
      const { certificate, key } = authority.sign('server');
      const path = join(bed.gantry.dir, 'config.toml');
      writeFileSync(path, `[streaming]\ntls_cert = "${certificate}"\ntls_key = "${key}"\n`);
      await bed.gantry.start({}, ['--config', path]);
      ca = readFileSync(authority.certificate, 'utf8');
      const wanted = { stdout: true };
      const url = await execUrl(['echo', 'in secret'], wanted);
      expect(url).to.match(/^https:/);
      expect((await (await SpdyCommand.dial(url, wanted, { ca })).result()).stdout).to.equal('in secret\n');
      const seen = await (await WsCommand.dial(await execUrl(['echo', 'in secret'], wanted), 'v5.channel.k8s.io', ca)).result();
      expect(seen.stdout).to.equal('in secret\n');
    });
  });
});

function commandLine(pid: number): string {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, 'utf8').replaceAll('\0', ' ');
  } catch {
    return '';
  }
}
