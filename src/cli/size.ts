const UNITS = ['B', 'kB', 'MB', 'GB', 'TB'];

/** Decimal units, three figures: `1.23 GB`. */
export function sizeText(bytes: number): string {
  let [value, unit] = [bytes, 0];
  for (; value >= 999.5 && unit < UNITS.length - 1; unit++) value /= 1000;
  return `${unit === 0 ? String(value) : value.toPrecision(3)} ${UNITS[unit]}`;
}
