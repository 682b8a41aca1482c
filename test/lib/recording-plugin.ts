import { chmodSync, existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

/** One execution of a recording CNI plugin: what it was given. */
export interface PluginCall {
  readonly type: string;
  readonly command: string;
  /** CNI_* of its environment. */
  readonly env: Readonly<Record<string, string>>;
  /** Names of all its environment. */
  readonly names: readonly string[];
  readonly conf: Readonly<Record<string, unknown>>;
}

/** What it does at a command instead of succeeding with the result that it was given. */
export interface PluginAnswer {
  readonly exitCode?: number;
  /** Printed as it is. */
  readonly stdout?: string;
  readonly stderr?: string;
}

/** CNI plugins that write down how they were called and answer as they are told, in a directory of their own. */
export class RecordingPlugins {
  readonly binDir: string;
  readonly #calls: string;

  constructor(dir: string, types: readonly string[]) {
    this.binDir = join(dir, 'recording-plugins');
    this.#calls = join(this.binDir, 'calls');
    mkdirSync(this.binDir, { recursive: true });
    for (const type of types) {
      writeFileSync(join(this.binDir, type), program(this.binDir, type));
      chmodSync(join(this.binDir, type), 0o755);
    }
  }

  /** Those since the last `forget`, in order. */
  calls(filter: Partial<Pick<PluginCall, 'type' | 'command'>> = {}): PluginCall[] {
    const text = existsSync(this.#calls) ? readFileSync(this.#calls, 'utf8').trim() : '';
    const all = text === '' ? [] : text.split('\n').map((line) => JSON.parse(line) as PluginCall);
    return all.filter(
      ({ type, command }) =>
        (filter.type === undefined || type === filter.type) && (filter.command === undefined || command === filter.command),
    );
  }

  forget(): void {
    rmSync(this.#calls, { force: true });
  }

  /** From now on; undefined: as usual. */
  answer(type: string, command: string, answer: PluginAnswer | undefined): void {
    const path = join(this.binDir, `${type}.${command}.json`);
    if (answer === undefined) rmSync(path, { force: true });
    else writeFileSync(path, JSON.stringify(answer));
  }
}

const program = (dir: string, type: string): string => `#!${process.execPath}
const { appendFileSync, existsSync, readFileSync } = require('node:fs');
const conf = JSON.parse(readFileSync(0, 'utf8'));
const command = process.env.CNI_COMMAND;
const env = Object.fromEntries(Object.entries(process.env).filter(([name]) => name.startsWith('CNI_')));
const call = { type: ${JSON.stringify(type)}, command, env, names: Object.keys(process.env), conf };
appendFileSync(${JSON.stringify(join(dir, 'calls'))}, JSON.stringify(call) + '\\n');
const told = ${JSON.stringify(join(dir, type))} + '.' + command + '.json';
const answer = existsSync(told) ? JSON.parse(readFileSync(told, 'utf8')) : {};
const result = conf.prevResult ?? { cniVersion: conf.cniVersion, ips: [{ address: '192.0.2.7/24' }] };
process.stderr.write(answer.stderr ?? '');
process.stdout.write(answer.stdout ?? (command === 'ADD' ? JSON.stringify(result) : ''));
process.exitCode = answer.exitCode ?? 0;
`;
