import { isIP } from 'node:net';
import { invalidArgument } from '../../base/errors.ts';
import type { SELinuxOption__Output } from '../../gen/cri/runtime/v1/SELinuxOption.ts';

/** Checks of single fields. `field` is the path as the CRI spells it; every failure is invalidArgument with that path in front. */

export function required<T>(value: T | null | undefined, field: string): T {
  if (value === null || value === undefined) throw invalidArgument(field, 'is required');
  return value;
}

export function nonEmpty(text: string, field: string): string {
  if (text === '') throw invalidArgument(field, 'must not be empty');
  return noNul(text, field);
}

export function noNul(text: string, field: string): string {
  if (text.includes('\0')) throw invalidArgument(field, 'contains a NUL byte');
  return text;
}

/** An enum's name; a number that has none arrives as the number. */
export function knownEnum(value: string | number, field: string): void {
  if (typeof value === 'number') throw invalidArgument(field, `${value} is not a known value`);
}

export function absolutePath(path: string, field: string): string {
  nonEmpty(path, field);
  if (!path.startsWith('/')) throw invalidArgument(field, `${JSON.stringify(path)} is not an absolute path`);
  return path;
}

/** Stays below what it is joined to. */
export function relativePath(path: string, field: string): string {
  noNul(path, field);
  if (path.startsWith('/') || path.split('/').includes('..'))
    throw invalidArgument(field, `${JSON.stringify(path)} leaves the log directory`);
  return path;
}

/** An int64 as decimal text. */
export function notNegative(value: string, field: string): void {
  if (BigInt(value === '' ? '0' : value) < 0n) throw invalidArgument(field, `${value} is negative`);
}

export function port(value: number, field: string, least: number): void {
  if (value < least || value > 65535) throw invalidArgument(field, `${value} is not a port`);
}

export function ipAddress(text: string, field: string): void {
  if (text !== '' && isIP(text) === 0) throw invalidArgument(field, `${JSON.stringify(text)} is not an IP address`);
}

/** One network, or one of each family with a comma between (dual stack), as kubelet has a node's pod CIDR. */
export function podCidr(text: string, field: string): void {
  for (const network of text.split(',')) {
    const [address = '', prefix = '', ...rest] = network.split('/');
    const bits = isIP(address) === 4 ? 32 : 128;
    if (rest.length > 0 || isIP(address) === 0 || !/^\d{1,3}$/.test(prefix) || Number(prefix) > bits)
      throw invalidArgument(field, `${JSON.stringify(network)} is not a network in CIDR notation`);
  }
}

const HOSTNAME = /^[A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9])?$/;
/** sethostname(2) takes 64 bytes. */
const MAX_HOSTNAME = 64;

export function hostname(text: string, field: string): void {
  if (text !== '' && (text.length > MAX_HOSTNAME || !HOSTNAME.test(text)))
    throw invalidArgument(field, `${JSON.stringify(text)} is not a host name`);
}

const SYSCTL = /^[A-Za-z0-9_-]+([./][A-Za-z0-9_-]+)+$/;

/** Keys and values go to files under /proc/sys one by one; nothing joins them into text (S7). */
export function sysctl(key: string, value: string, field: string): void {
  if (!SYSCTL.test(key)) throw invalidArgument(field, `${JSON.stringify(key)} is not a sysctl`);
  if (/[\0\n]/.test(value)) throw invalidArgument(field, `the value of ${key} contains a NUL byte or a line break`);
}

/** A cgroup path or a systemd slice; never one that climbs out. */
export function cgroupParent(text: string, field: string): void {
  noNul(text, field);
  const isSlice = text.endsWith('.slice');
  if (text.split('/').includes('..') || (text !== '' && !text.startsWith('/') && !isSlice)) {
    throw invalidArgument(field, `${JSON.stringify(text)} is neither an absolute cgroup path nor a slice`);
  }
}

export function stringMap(map: Readonly<Record<string, string>>, field: string): void {
  for (const [key, value] of Object.entries(map)) {
    nonEmpty(key, field);
    noNul(value, `${field}[${key}]`);
  }
}

const SELINUX_NAME = /^[A-Za-z0-9_.-]*$/;
const CATEGORIES = 'c\\d{1,4}(?:[.,]c\\d{1,4})*';
const LEVEL = `s\\d{1,2}(?::${CATEGORIES})?`;
const SELINUX_LEVEL = new RegExp(`^(?:${LEVEL}(?:-${LEVEL})?)?$`);

/** Parts of a label: one with a colon or a space would be another label. */
export function selinuxOptions(options: SELinuxOption__Output | null, field: string): void {
  if (options === null) return;
  for (const key of ['user', 'role', 'type'] as const)
    if (!SELINUX_NAME.test(options[key]))
      throw invalidArgument(`${field}.${key}`, `${JSON.stringify(options[key])} is not a name of SELinux`);
  if (!SELINUX_LEVEL.test(options.level))
    throw invalidArgument(`${field}.level`, `${JSON.stringify(options.level)} is not a level (s0:c1,c2)`);
}
