/** Of fewer, a 99th percentile is the largest. */
const ENOUGH_FOR_P99 = 100;

/** Figures of one row by who they are of; the medians are compared, and the 99th percentiles where there are enough. */
export class Samples {
  readonly #of = new Map<string, number[]>();

  add(who: string, value: number): void {
    const values = this.#of.get(who);
    if (values === undefined) this.#of.set(who, [value]);
    else values.push(value);
  }

  /** undefined where nothing was measured. */
  quantile(who: string, part: number): number | undefined {
    const sorted = [...(this.#of.get(who) ?? [])].sort((a, b) => a - b);
    return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * part))];
  }

  /** undefined where too little was measured for it. */
  p99(who: string): number | undefined {
    return this.count(who) < ENOUGH_FOR_P99 ? undefined : this.quantile(who, 0.99);
  }

  count(who: string): number {
    return this.#of.get(who)?.length ?? 0;
  }
}

/** One line of the table; `ratio` is gantry/peer of the medians, `ratioP99` of the 99th percentiles. */
export interface Row {
  readonly name: string;
  readonly unit: string;
  readonly gantry: number | undefined;
  readonly peer: number | undefined;
  readonly floor: number | undefined;
  readonly ratio: number | undefined;
  readonly gantryP90: number | undefined;
  readonly peerP90: number | undefined;
  readonly gantryP99: number | undefined;
  readonly peerP99: number | undefined;
  readonly ratioP99: number | undefined;
  readonly samples: number;
}

const ratioOf = (ours: number | undefined, theirs: number | undefined): number | undefined =>
  ours === undefined || theirs === undefined || theirs === 0 ? undefined : ours / theirs;

export function rowOf(name: string, unit: string, samples: Samples, peer: string): Row {
  const [ours, theirs] = [samples.quantile('gantry', 0.5), samples.quantile(peer, 0.5)];
  return {
    name,
    unit,
    gantry: ours,
    peer: theirs,
    floor: samples.quantile('floor', 0.5),
    ratio: ratioOf(ours, theirs),
    gantryP90: samples.quantile('gantry', 0.9),
    peerP90: samples.quantile(peer, 0.9),
    gantryP99: samples.p99('gantry'),
    peerP99: samples.p99(peer),
    ratioP99: ratioOf(samples.p99('gantry'), samples.p99(peer)),
    samples: samples.count('gantry'),
  };
}

export function table(rows: readonly Row[], peer: string): string {
  const number = (value: number | undefined): string => (value === undefined ? '-' : value < 10 ? value.toFixed(2) : value.toFixed(1));
  const times = (ratio: number | undefined): string => (ratio === undefined ? '-' : `${ratio.toFixed(2)}x`);
  const cells = rows.map((row) => [
    row.name,
    row.unit,
    number(row.gantry),
    number(row.gantryP90),
    number(row.gantryP99),
    number(row.peer),
    number(row.peerP90),
    number(row.peerP99),
    number(row.floor),
    times(row.ratio),
    times(row.ratioP99),
    String(row.samples),
  ]);
  const all = [['row', 'unit', 'gantry', 'p90', 'p99', peer, 'p90', 'p99', 'floor', 'ratio', 'p99', 'n'], ...cells];
  const widths = all[0]!.map((_, column) => Math.max(...all.map((line) => line[column]!.length)));
  return all
    .map((line) => line.map((cell, column) => (column < 2 ? cell.padEnd(widths[column]!) : cell.padStart(widths[column]!))).join('  '))
    .join('\n');
}
