import { readdirSync, readFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import type { PodSandboxRecord } from '../../src/sandbox/record.ts';
import type { Gantry } from './gantry.ts';

const SETTLE_MS = 10_000;
const EVERY_MS = 10;

/** What the daemon's records say it keeps ready for pods to come. */
export interface Warm {
  readonly ids: ReadonlySet<string>;
  /** Whether what is named so is theirs: by an id, as an address or as the host's end of a veth pair. */
  owns(name: string): boolean;
}

/**
 * Warm sandboxes, by their records. One that is just being prepared or given back has more or less than its record tells: that is waited for, and the test's
 * process with it, so that what is counted next is the same.
 */
export function warm(gantry: Gantry): Warm {
  const pause = new Int32Array(new SharedArrayBuffer(4));
  const untilMs = Date.now() + SETTLE_MS;
  for (;;) {
    const records = warmRecords(gantry);
    // The first writing of a record has no more than its temporary file.
    const isWriting = names(join(gantry.root, 'sandboxes')).some((name) => name.endsWith('.tmp'));
    const isSettled = !isWriting && records.every(({ attachment }) => attachment !== undefined) && mirrors(records, gantry);
    if (isSettled || Date.now() > untilMs) return possessions(records, gantry);
    Atomics.wait(pause, 0, 0, EVERY_MS);
  }
}

function possessions(records: readonly PodSandboxRecord[], gantry: Gantry): Warm {
  const ids = new Set(records.map(({ id }) => id));
  const links = new Set(records.flatMap(linksOf));
  const addresses = new Set(allAddresses(gantry).flatMap(({ name, id }) => (ids.has(id) ? [basename(name)] : [])));
  return { ids, owns: (name) => links.has(name) || addresses.has(basename(name)) || [...ids].some((id) => name.includes(id)) };
}

/** Its veths are all there: none of them is on its way out. */
function mirrors(records: readonly PodSandboxRecord[], gantry: Gantry): boolean {
  const pinned = names(join(gantry.state, 'pods'));
  const links = names('/sys/class/net');
  return records.every((record) => pinned.includes(record.id) && linksOf(record).every((name) => links.includes(name)));
}

function warmRecords(gantry: Gantry): PodSandboxRecord[] {
  const dir = join(gantry.root, 'sandboxes');
  return names(dir).flatMap((name) => {
    try {
      const record = JSON.parse(readFileSync(join(dir, name), 'utf8')) as PodSandboxRecord;
      return record.state === 'warm' && `${record.id}.json` === name ? [record] : [];
    } catch {
      return [];
    }
  });
}

function linksOf({ attachment }: PodSandboxRecord): string[] {
  const { interfaces = [] } = (attachment?.result ?? {}) as { interfaces?: Array<{ name: string; sandbox?: string }> };
  return interfaces.flatMap(({ name, sandbox }) => ((sandbox ?? '') === '' && name.startsWith('veth') ? [name] : []));
}

/** Of what `look` finds, everything that no warm sandbox has or had meanwhile: some may be made or given back while it looks. */
export function ofPods(gantry: Gantry, look: () => string[]): string[] {
  const before = warm(gantry);
  const found = look();
  const after = warm(gantry);
  return found.filter((name) => !before.owns(name) && !after.owns(name));
}

/** Addresses that host-local has given out to pods. */
export const addressesOfPods = (gantry: Gantry): string[] => ofPods(gantry, () => allAddresses(gantry).map(({ name }) => name));

/** All that host-local has given out, and to whom. */
export function allAddresses(gantry: Gantry): Array<{ name: string; id: string }> {
  return names(gantry.cniDataDir, true).flatMap((name) => {
    if (!/\/\d+\.\d+\.\d+\.\d+$|:/.test(name)) return [];
    try {
      return [{ name, id: readFileSync(join(gantry.cniDataDir, name), 'utf8').split(/\s/)[0] ?? '' }];
    } catch {
      return [];
    }
  });
}

function names(dir: string, recursive = false): string[] {
  try {
    return readdirSync(dir, { recursive, encoding: 'utf8' });
  } catch {
    return [];
  }
}
