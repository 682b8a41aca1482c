/** Figures of one row by who they are of; the medians are compared. */
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

  count(who: string): number {
    return this.#of.get(who)?.length ?? 0;
  }
}

/** One line of the table; `ratio` is gantry/peer of the medians. */
export interface Row {
  readonly name: string;
  readonly unit: string;
  readonly gantry: number | undefined;
  readonly peer: number | undefined;
  readonly floor: number | undefined;
  readonly ratio: number | undefined;
  readonly gantryP90: number | undefined;
  readonly peerP90: number | undefined;
  readonly samples: number;
}

export function rowOf(name: string, unit: string, samples: Samples, peer: string): Row {
  const [ours, theirs] = [samples.quantile('gantry', 0.5), samples.quantile(peer, 0.5)];
  return {
    name,
    unit,
    gantry: ours,
    peer: theirs,
    floor: samples.quantile('floor', 0.5),
    ratio: ours === undefined || theirs === undefined || theirs === 0 ? undefined : ours / theirs,
    gantryP90: samples.quantile('gantry', 0.9),
    peerP90: samples.quantile(peer, 0.9),
    samples: samples.count('gantry'),
  };
}

export function table(rows: readonly Row[], peer: string): string {
  const number = (value: number | undefined): string => (value === undefined ? '-' : value < 10 ? value.toFixed(2) : value.toFixed(1));
  const cells = rows.map((row) => [
    row.name,
    row.unit,
    number(row.gantry),
    number(row.gantryP90),
    number(row.peer),
    number(row.peerP90),
    number(row.floor),
    row.ratio === undefined ? '-' : `${row.ratio.toFixed(2)}x`,
    String(row.samples),
  ]);
  const all = [['row', 'unit', 'gantry', 'p90', peer, 'p90', 'floor', 'ratio', 'n'], ...cells];
  const widths = all[0]!.map((_, column) => Math.max(...all.map((line) => line[column]!.length)));
  return all
    .map((line) => line.map((cell, column) => (column < 2 ? cell.padEnd(widths[column]!) : cell.padStart(widths[column]!))).join('  '))
    .join('\n');
}
