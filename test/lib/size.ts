/**
 * How large a test is: `inTest` under hack/test, `inSoak` under hack/soak (the counts and durations of MUSTS), or what GANTRY_<name> says. Tests print it in
 * their titles.
 */
export function size(name: string, inTest: number, inSoak: number): number {
  const said = process.env[`GANTRY_${name}`];
  if (said !== undefined && !(Number(said) > 0)) throw new Error(`GANTRY_${name}=${said}: not a positive number`);
  if (said !== undefined) return Number(said);
  return process.env['GANTRY_SOAK'] === '1' ? inSoak : inTest;
}
