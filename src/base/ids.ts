import { randomBytes } from 'node:crypto';
import { invalidArgument, notFound } from './errors.ts';

const ID = /^[0-9a-f]{64}$/;

/** 64 lower-case hex digits, as every CRI client expects of sandbox and container ids. */
export const newId = (): string => randomBytes(32).toString('hex');

export const isId = (text: string): boolean => ID.test(text);

/** Nanoseconds since the epoch. */
export const nowNs = (): bigint => BigInt(Date.now()) * 1_000_000n;

/** Order of lists. Times are decimal text without leading zeros: a longer one is later. */
export function newestFirst(a: { readonly createdAtNs: string }, b: { readonly createdAtNs: string }): number {
  if (a.createdAtNs.length !== b.createdAtNs.length) return b.createdAtNs.length - a.createdAtNs.length;
  return a.createdAtNs === b.createdAtNs ? 0 : a.createdAtNs < b.createdAtNs ? 1 : -1;
}

/** The record with this id, or with the only id that begins with it (crictl shortens ids). notFound; invalidArgument when several begin so. */
export function byId<T extends { readonly id: string }>(records: readonly T[], id: string, names: { noun: string; field: string }): T {
  const matches = id === '' ? [] : records.filter((record) => record.id.startsWith(id));
  if (matches.length > 1) throw invalidArgument(names.field, `${id} is the beginning of ${matches.length} ids`);
  const [match] = matches;
  if (match === undefined) throw notFound(names.noun, id);
  return match;
}
