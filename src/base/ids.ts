import { randomBytes } from 'node:crypto';

const ID = /^[0-9a-f]{64}$/;

/** 64 lower-case hex digits, as every CRI client expects of sandbox and container ids. */
export const newId = (): string => randomBytes(32).toString('hex');

export const isId = (text: string): boolean => ID.test(text);

/** Nanoseconds since the epoch. */
export const nowNs = (): bigint => BigInt(Date.now()) * 1_000_000n;
