import { readFile } from 'node:fs/promises';
import { join } from 'node:path';

/** Share of time in percent over the last 10, 60 and 300 seconds, and all of it since the cgroup was made. */
export interface Pressure {
  readonly avg10: number;
  readonly avg60: number;
  readonly avg300: number;
  readonly totalUs: bigint;
}

/** `some`: at least one task waited; `full`: none could go on. */
export interface PressureStall {
  readonly some: Pressure;
  readonly full: Pressure;
}

/** PSI of a cgroup (kernel, accounting/psi); undefined where the kernel doesn't keep it. */
export interface Pressures {
  readonly cpu: PressureStall | undefined;
  readonly memory: PressureStall | undefined;
  readonly io: PressureStall | undefined;
}

export const NO_PRESSURES: Pressures = { cpu: undefined, memory: undefined, io: undefined };

const NONE: Pressure = { avg10: 0, avg60: 0, avg300: 0, totalUs: 0n };

/** The text of a `*.pressure` file. Before Linux 5.13 cpu has no `full` line: it counts as zero. */
export function parsePressure(text: string): PressureStall | undefined {
  const lines = new Map(
    text.split('\n').flatMap((line) => {
      const match = /^(some|full) avg10=([\d.]+) avg60=([\d.]+) avg300=([\d.]+) total=(\d+)$/.exec(line.trim());
      if (!match) return [];
      const [, kind = '', avg10, avg60, avg300, total = '0'] = match;
      return [[kind, { avg10: Number(avg10), avg60: Number(avg60), avg300: Number(avg300), totalUs: BigInt(total) }] as const];
    }),
  );
  const some = lines.get('some');
  return some && { some, full: lines.get('full') ?? NONE };
}

/** Of a directory in the v2 tree. A kernel booted with psi=0 answers with an error instead of a text. */
export async function readPressures(dir: string): Promise<Pressures> {
  const read = async (file: string): Promise<PressureStall | undefined> =>
    parsePressure(await readFile(join(dir, file), 'utf8').catch(() => ''));
  const [cpu, memory, io] = await Promise.all([read('cpu.pressure'), read('memory.pressure'), read('io.pressure')]);
  return { cpu, memory, io };
}
