import { accessSync, constants } from 'node:fs';
import { join } from 'node:path';
import { ClassifiedError } from '../base/errors.ts';
import type { Op } from '../base/op.ts';
import { within } from '../base/op.ts';
import { run } from '../os/spawn.ts';

export type Command = 'ADD' | 'DEL' | 'CHECK' | 'GC' | 'STATUS';

export interface Invocation {
  readonly command: Command;
  readonly type: string;
  readonly binDirs: readonly string[];
  /** CNI_CONTAINERID, CNI_NETNS, CNI_IFNAME, CNI_ARGS; without those that the command doesn't take. */
  readonly parameters: Readonly<Record<string, string>>;
  readonly config: Readonly<Record<string, unknown>>;
  /** Nobody waits for it. */
  readonly inBackground?: boolean;
}

const BACKGROUND_NICENESS = 10;

const TIMEOUT_MS = 60_000;
const MAX_OUTPUT_BYTES = 4 * 1024 * 1024;
/** CNI spec, well-known error codes. */
export const CNI_ERROR = { incompatibleVersion: 1, invalidEnvironment: 4, tryAgain: 11, notAvailable: 50, limited: 51 } as const;

/**
 * Executes one plugin (CNI spec, section 2) and returns its result. The error carries the plugin's name and its own words, and its code as `detail.cniCode`.
 * failedPrecondition: the plugin is in none of the directories.
 */
export async function invoke(op: Op, { command, type, binDirs, parameters, config, inBackground = false }: Invocation): Promise<unknown> {
  const result = await run(within(op, TIMEOUT_MS), {
    argv: [findPlugin(type, binDirs)],
    env: { PATH: process.env['PATH'] ?? '/usr/sbin:/usr/bin:/sbin:/bin', CNI_COMMAND: command, CNI_PATH: binDirs.join(':'), ...parameters },
    input: JSON.stringify(config),
    maxOutputBytes: MAX_OUTPUT_BYTES,
    ...(inBackground ? { niceness: BACKGROUND_NICENESS } : {}),
  });
  const output = result.stdout.toString('utf8').trim();
  const document = parsed(output);
  if (result.exitCode === 0) {
    // Only ADD has a result; what others print is not ours to judge.
    if (command !== 'ADD') return undefined;
    if (output === '') throw failure(type, command, 'it printed no result');
    if (typeof document !== 'object' || document === null) throw failure(type, command, `its result is not JSON: ${output.slice(0, 200)}`);
    return document;
  }
  const { code, msg, details } = (document ?? {}) as { code?: unknown; msg?: unknown; details?: unknown };
  const said = [msg, details].filter((text) => typeof text === 'string' && text !== '').join(': ');
  const words = said || lastWords(result.stderr.toString('utf8') || output) || `it ended with ${result.exitCode}`;
  throw failure(type, command, words, typeof code === 'number' ? code : undefined);
}

/** host-local's words: it has no code for that. */
const NO_ADDRESS = /no IP addresses available/;

/** The error of an ADD that found every address of its range given out. */
export const hasNoAddress = (error: unknown): boolean => error instanceof ClassifiedError && error.detail?.['hasNoAddress'] === true;

function failure(type: string, command: Command, words: string, cniCode?: number): ClassifiedError {
  const kind = cniCode === CNI_ERROR.tryAgain ? 'unavailable' : 'internal';
  const code = cniCode === undefined ? '' : ` (code ${cniCode})`;
  return new ClassifiedError(kind, `cni plugin "${type}" ${command.toLowerCase()}: ${words}${code}`, {
    detail: { cniCode, hasNoAddress: NO_ADDRESS.test(words) },
  });
}

const lastWords = (text: string): string => text.trim().split('\n').slice(-5).join(' ').slice(-1000);

function parsed(text: string): unknown {
  try {
    return text === '' ? undefined : (JSON.parse(text) as unknown);
  } catch {
    return undefined;
  }
}

export function findPlugin(type: string, binDirs: readonly string[]): string {
  for (const dir of binDirs) {
    const path = join(dir, type);
    try {
      accessSync(path, constants.X_OK);
      return path;
    } catch {
      continue;
    }
  }
  throw new ClassifiedError('failedPrecondition', `cni plugin "${type}": not found in ${binDirs.join(', ')}`, {
    detail: { isMissing: true },
  });
}

/** It was never executed. */
export const isMissing = (error: unknown): boolean => error instanceof ClassifiedError && error.detail?.['isMissing'] === true;
