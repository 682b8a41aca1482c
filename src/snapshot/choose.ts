import { join } from 'node:path';
import { kindOf, messageOf } from '../base/errors.ts';
import type { Logger } from '../base/log.ts';
import { IsalGunzip } from '../os/isal.ts';
import { createErofsSnapshotter } from './erofs/erofs.ts';
import { createOverlaySnapshotter } from './overlay.ts';
import type { Snapshotter } from './snapshotter.ts';

export interface ChosenSnapshotter {
  readonly snapshotter: Snapshotter;
  /** For people: what was chosen, and what this machine can do. */
  readonly facts: Readonly<Record<string, unknown>>;
}

/** Each keeps to a directory of its own below `root`. `auto`: erofs where it mounts. failedPrecondition when this machine can't do what was asked for by name. */
export async function createSnapshotter(
  kind: 'overlay' | 'erofs' | 'auto',
  places: { root: string; log: Logger },
): Promise<ChosenSnapshotter> {
  const { snapshotter, facts } = await choose(kind, places);
  return { snapshotter, facts: { ...facts, gzip: IsalGunzip.open() === undefined ? 'zlib' : 'ISA-L' } };
}

async function choose(kind: 'overlay' | 'erofs' | 'auto', { root, log }: { root: string; log: Logger }): Promise<ChosenSnapshotter> {
  if (kind === 'overlay') return overlay(root, log, {});
  try {
    const snapshotter = await createErofsSnapshotter({ root: join(root, 'erofs'), log });
    return { snapshotter, facts: { name: snapshotter.name, ...snapshotter.support, usage: snapshotter.usageMethod } };
  } catch (error) {
    if (kind === 'erofs' || kindOf(error) !== 'failedPrecondition') throw error;
    log.warn({ err: messageOf(error) }, 'layers are unpacked: EROFS indexes can not be mounted here');
    return overlay(root, log, { erofs: messageOf(error) });
  }
}

async function overlay(root: string, log: Logger, facts: object): Promise<ChosenSnapshotter> {
  const snapshotter = await createOverlaySnapshotter({ root: join(root, 'overlay'), log });
  return { snapshotter, facts: { name: snapshotter.name, ...facts, usage: snapshotter.usageMethod } };
}
