import { once } from 'node:events';
import { connect } from 'node:net';
import type { Duplex } from 'node:stream';
import { ClassifiedError } from '../../../src/base/errors.ts';
import type { AttachSession, ClientStreams, ExecSession, StreamRuntime, TerminalSize } from '../../../src/streaming/stream-runtime.ts';

export type Program = (signal: AbortSignal, session: ExecSession, streams: ClientStreams) => Promise<number>;

const say = (stream: ClientStreams['stdout'], text: string): boolean | undefined => stream?.write(text);

/** What "containers" can run, by the command's first word. */
const PROGRAMS: Record<string, Program> = {
  async echo(_signal, { command }, { stdout }) {
    say(stdout, `${command.slice(1).join(' ')}\n`);
    return 0;
  },
  async both(_signal, _session, { stdout, stderr }) {
    say(stdout, 'out');
    say(stderr, 'err');
    return 0;
  },
  async exit(_signal, { command }) {
    return Number(command[1]);
  },
  async fail() {
    throw new ClassifiedError('notFound', 'container "x" not found');
  },
  async cat(signal, _session, { stdin, stdout }) {
    for await (const chunk of stdin ?? []) if (stdout && !stdout.write(chunk)) await once(stdout, 'drain', { signal });
    return 0;
  },
  /** Writes the first `n` sizes of its terminal. */
  async sizes(_signal, { command }, { stdout, onResize }) {
    const { promise, resolve } = Promise.withResolvers<void>();
    const seen: TerminalSize[] = [];
    onResize((size) => {
      seen.push(size);
      if (seen.length === Number(command[1])) resolve();
    });
    await promise;
    say(stdout, seen.map(({ width, height }) => `${width}x${height}`).join(' '));
    return 0;
  },
  /** Writes until the client is gone; with the argument "rude" it doesn't care for backpressure. */
  async yes(signal, { command }, { stdout }) {
    const chunk = Buffer.alloc(65_536, 'y\n');
    while (!signal.aborted) {
      const more = stdout?.write(chunk);
      if (command[1] === 'rude') await new Promise((resolve) => setImmediate(resolve));
      else if (!more && stdout) await once(stdout, 'drain', { signal });
    }
    throw signal.reason;
  },
  /** Reads nothing and ends with the client. */
  async sleep(signal) {
    if (!signal.aborted) await once(signal, 'abort');
    throw signal.reason;
  },
  /** Doesn't want any input. */
  async noInput(_signal, _session, { stdin, stdout }) {
    stdin?.destroy();
    say(stdout, 'closed');
    return 0;
  },
};

/** A runtime without containers: `exec` runs one of PROGRAMS or `programs`, `connect` goes to this host. `running` counts what has not ended. */
export class FakeRuntime implements StreamRuntime {
  running = 0;
  /** Reasons why sessions were aborted. */
  readonly aborted: unknown[] = [];
  readonly programs: Record<string, Program> = { ...PROGRAMS };
  readonly execs: ExecSession[] = [];
  connections = 0;

  async exec(signal: AbortSignal, session: ExecSession, streams: ClientStreams): Promise<number> {
    this.execs.push(session);
    const program = this.programs[session.command[0] ?? ''];
    if (!program) throw new ClassifiedError('notFound', `no program ${session.command[0]}`);
    return this.#counted(signal, program(signal, session, streams));
  }

  async attach(signal: AbortSignal, session: AttachSession, streams: ClientStreams): Promise<void> {
    const program = this.programs[session.containerId] ?? PROGRAMS['cat'];
    if (program) await this.#counted(signal, program(signal, { ...session, command: [session.containerId] }, streams));
  }

  async connect(signal: AbortSignal, _podSandboxId: string, port: number): Promise<Duplex> {
    const socket = connect({ port, host: '127.0.0.1', signal, allowHalfOpen: true });
    this.connections++;
    socket.once('close', () => this.connections--);
    try {
      await once(socket, 'connect');
    } catch {
      throw new ClassifiedError('unavailable', `nothing listens on port ${port}`);
    }
    return socket;
  }

  async #counted<T>(signal: AbortSignal, work: Promise<T>): Promise<T> {
    this.running++;
    signal.addEventListener('abort', () => this.aborted.push(signal.reason), { once: true });
    try {
      return await work;
    } finally {
      this.running--;
    }
  }
}
