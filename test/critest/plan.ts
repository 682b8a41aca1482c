import { existsSync, readFileSync } from 'node:fs';

/** A spec that is left out, and why. */
export interface Skip {
  readonly match: string;
  readonly reason: string;
  /** Left out only while this path does not exist. */
  readonly unlessPath?: string;
  /** Left out only under this runtime handler. */
  readonly handler?: string;
}

/** critest.yaml. */
export interface Plan {
  /** The number of specs that must pass. It only rises. */
  readonly floor: number;
  readonly options: readonly string[];
  readonly skip: readonly Skip[];
}

/** Reads the few forms that critest.yaml has; any other line is refused by its number. */
export function parsePlan(text: string): Plan {
  let floor: number | undefined;
  const options: string[] = [];
  const skip: Array<Record<string, string>> = [];
  let section = '';
  for (const [at, line] of text.split('\n').entries()) {
    const bare = line.trimEnd();
    if (bare === '' || bare.trimStart().startsWith('#')) continue;
    const [, key, value] = /^([a-z]+): *(.*)$/.exec(bare) ?? [];
    const [, item] = /^ {2}- (.*)$/.exec(bare) ?? [];
    const [, field, content] = /^(?: {2}- | {4})([a-zA-Z]+): (.+)$/.exec(bare) ?? [];
    if (key === 'floor' && /^\d+$/.test(value ?? '')) floor = Number(value);
    else if ((key === 'options' || key === 'skip') && value === '') section = key;
    else if (section === 'options' && item !== undefined) options.push(unquoted(item));
    else if (section === 'skip' && field !== undefined && content !== undefined) {
      if (item !== undefined) skip.push({});
      const entry = skip.at(-1);
      if (entry === undefined) throw new Error(`critest.yaml:${at + 1}: a field outside an entry`);
      entry[field] = unquoted(content);
    } else throw new Error(`critest.yaml:${at + 1}: not understood: ${bare}`);
  }
  if (floor === undefined) throw new Error('critest.yaml: no floor');
  return { floor, options, skip: skip.map(entryOf) };
}

function entryOf({ match, reason, unlessPath, handler, ...rest }: Record<string, string>): Skip {
  const [unknown] = Object.keys(rest);
  if (unknown !== undefined) throw new Error(`critest.yaml: unknown field ${unknown}`);
  if (match === undefined || reason === undefined)
    throw new Error(`critest.yaml: ${match ?? 'an entry'}: match and reason are both needed`);
  new RegExp(match);
  return { match, reason, ...(unlessPath === undefined ? {} : { unlessPath }), ...(handler === undefined ? {} : { handler }) };
}

const unquoted = (text: string): string => text.replace(/^'(.*)'$/, '$1').replace(/^"(.*)"$/, '$1');

export const readPlan = (path: string): Plan => parsePlan(readFileSync(path, 'utf8'));

/** The entries that hold on this host and under this handler. */
export const skipsHere = (plan: Plan, under = process.env['HANDLER']): Skip[] =>
  plan.skip.filter(
    ({ unlessPath, handler }) => (unlessPath === undefined || !existsSync(unlessPath)) && (handler === undefined || handler === under),
  );
