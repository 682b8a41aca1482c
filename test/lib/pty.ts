import type { ChildProcess } from 'node:child_process';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { eventually } from './bed.ts';

/** Runs argv in a terminal of its own: stdin and stdout are its keyboard and screen, "rows columns" on descriptor 3 sizes it, the exit code is the command's. */
const PROGRAM = `
import fcntl, os, pty, select, signal, struct, sys, termios
pid, master = pty.fork()
if pid == 0:
    sys.stdin.readline()
    os.execvp(sys.argv[1], sys.argv[1:])
size = b""
def resize(line):
    rows, columns = map(int, line.split())
    fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
watched = [0, 3, master]
started = False
while master in watched:
    ready, _, _ = select.select(watched, [], [])
    if 3 in ready:
        part = os.read(3, 100)
        if not part: watched.remove(3)
        size += part
        while b"\\n" in size:
            line, size = size.split(b"\\n", 1)
            resize(line)
            if not started:
                started = True
                os.write(master, b"\\n")
    if 0 in ready:
        part = os.read(0, 65536)
        if part: os.write(master, part)
        else: watched.remove(0)
    if master in ready:
        try: part = os.read(master, 65536)
        except OSError: part = b""
        if part: os.write(1, part)
        else: watched.remove(master)
_, status = os.waitpid(pid, 0)
sys.exit(os.waitstatus_to_exitcode(status) & 255)
`;

/** A person at a terminal, for tests. */
export class Pty implements Disposable {
  readonly #child: ChildProcess;
  readonly exitCode: Promise<number>;
  screen = '';

  constructor(argv: readonly string[], size: { rows: number; columns: number }) {
    this.#child = spawn('python3', ['-c', PROGRAM, ...argv], { stdio: ['pipe', 'pipe', 'inherit', 'pipe'] });
    this.#child.stdout?.setEncoding('utf8').on('data', (text: string) => (this.screen += text));
    this.exitCode = once(this.#child, 'close').then(([code]) => Number(code));
    this.resize(size);
  }

  resize({ rows, columns }: { rows: number; columns: number }): void {
    (this.#child.stdio[3] as NodeJS.WritableStream).write(`${rows} ${columns}\n`);
  }

  type(text: string): void {
    this.#child.stdin?.write(text);
  }

  /** Waits until the screen has shown it since the last call of `clear`. */
  async shows(text: string | RegExp, timeoutMs = 15_000): Promise<void> {
    const found = (): boolean => (typeof text === 'string' ? this.screen.includes(text) : text.test(this.screen));
    await eventually(`the terminal shows ${String(text)}`, found, timeoutMs).catch((error: unknown) => {
      throw new Error(`${String(error)}; it shows ${JSON.stringify(this.screen.slice(-500))}`);
    });
  }

  clear(): void {
    this.screen = '';
  }

  /** SIGKILL to the command: it can't say goodbye. */
  [Symbol.dispose](): void {
    this.#child.kill('SIGKILL');
  }
}
