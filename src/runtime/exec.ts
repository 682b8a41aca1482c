import { randomBytes } from 'node:crypto';
import { closeSync } from 'node:fs';
import { join } from 'node:path';
import type { Readable } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Op } from '../base/op.ts';
import { orOver } from '../base/op.ts';
import { awaitMaster } from '../os/console-socket.ts';
import { FdStream } from '../os/fd-stream.ts';
import { pipe } from '../os/spawn.ts';
import { Terminal } from '../os/terminal.ts';
import type { ExecContext } from './exec-process.ts';
import { ExecProcess } from './exec-process.ts';
import { Outflow } from './outflow.ts';
import { closeAll } from './pipe-reader.ts';
import type { ExecStreamRequest, TerminalSize } from './runtime.ts';
import { Sink } from './sink.ts';

/** A terminal's last output may be on its way through the kernel for some milliseconds. */
const TERMINAL_SETTLES = 4;
const MASTER_TIMEOUT_MS = 2000;

/** A process that runs, with its streams connected. */
interface Connected extends Disposable {
  /** Resolves when all of the output is written; called once the process has ended. */
  finish(): Promise<void>;
}

/**
 * Runs one process in a container, without a monitor, between the client's streams. Resolves with its exit code when it has ended and its output is written;
 * what it left running goes on, in the container (R15). When the op ends first, all that it started is killed (R14).
 */
export async function exec(op: Op, context: ExecContext, request: ExecStreamRequest): Promise<number> {
  await using run = await ExecProcess.prepare(op, context);
  try {
    using connected = request.tty ? await withTerminal(run, context, request) : await withPipes(run, request);
    const { exitCode } = await orOver(op, run.exited());
    await orOver(op, connected.finish());
    return exitCode;
  } catch (error) {
    await run.kill();
    throw error;
  }
}

async function withPipes(run: ExecProcess, { process, streams }: ExecStreamRequest): Promise<Connected> {
  const [stdin, stdout, stderr] = [streams.stdin, streams.stdout, streams.stderr].map((stream) =>
    stream === undefined ? undefined : pipe(),
  );
  try {
    await run.start(process, { stdin: stdin?.read, stdout: stdout?.write, stderr: stderr?.write });
  } catch (error) {
    closeAll([stdin?.write, stdout?.read, stderr?.read].filter((fd) => fd !== undefined));
    throw error;
  } finally {
    closeAll([stdin?.read, stdout?.write, stderr?.write].filter((fd) => fd !== undefined));
  }
  const input = stdin === undefined ? undefined : new FdStream(stdin.write);
  if (input && streams.stdin) {
    // What holds the pipe open to the process is its end's last descriptor: ours.
    input.once('finish', () => input.destroy());
    feed(streams.stdin, input, { end: true });
  }
  const outputs = [stdout, stderr].map((each) => (each === undefined ? undefined : new FdStream(each.read)));
  const flows = outputs.flatMap((each, index) =>
    each ? [new Outflow(each, new Sink(index === 0 ? streams.stdout : streams.stderr), 0)] : [],
  );
  return {
    finish: async () => void (await Promise.all(flows.map((flow) => flow.finish()))),
    [Symbol.dispose]() {
      if (input) unfeed(streams.stdin, input);
      for (const each of [input, ...outputs]) each?.destroy();
    },
  };
}

async function withTerminal(run: ExecProcess, context: ExecContext, { process, streams }: ExecStreamRequest): Promise<Connected> {
  const path = join(context.socketsDir, `x${randomBytes(8).toString('hex')}`);
  let size: TerminalSize | undefined;
  let terminal: Terminal | undefined;
  let flow: Outflow | undefined;
  const { promise: arrived, resolve } = Promise.withResolvers<void>();
  let closed = false;
  const close = awaitMaster(path, (fd) => {
    if (closed) return closeSync(fd);
    terminal = new Terminal(fd);
    if (size) terminal.resize(size);
    flow = new Outflow(terminal, new Sink(streams.stdout), TERMINAL_SETTLES);
    if (streams.stdin) feed(streams.stdin, terminal, { end: false });
    resolve();
  });
  const connected: Connected = {
    async finish() {
      // Sent before the process began; a runtime that sent none must not keep the client.
      await Promise.race([arrived, sleep(MASTER_TIMEOUT_MS, undefined, { ref: false })]);
      await flow?.finish();
    },
    [Symbol.dispose]() {
      closed = true;
      close();
      if (terminal) unfeed(streams.stdin, terminal);
      terminal?.destroy();
    },
  };
  try {
    streams.onResize((next) => {
      size = next;
      terminal?.resize(next);
    });
    const consoleSize = size as TerminalSize | undefined;
    await run.start(consoleSize ? { ...process, consoleSize } : process, { consoleSocket: path });
    return connected;
  } catch (error) {
    connected[Symbol.dispose]();
    throw error;
  }
}

/** Client to process. A process that reads no more loses what comes; the client is not kept waiting. */
function feed(from: Readable, to: FdStream, options: { end: boolean }): void {
  from.on('error', () => undefined);
  to.on('error', () => {
    from.unpipe(to);
    from.resume();
  });
  from.pipe(to, options);
}

function unfeed(from: Readable | undefined, to: FdStream): void {
  from?.unpipe(to);
  // Its errors are nobody's any more.
  to.on('error', () => undefined);
}
