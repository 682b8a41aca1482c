import { ClassifiedError } from '../base/errors.ts';
import type { Op } from '../base/op.ts';
import { detached, newOp } from '../base/op.ts';
import type { DiskUsage } from '../os/disk-usage.ts';
import { run } from '../os/spawn.ts';
import { Slots } from '../base/slots.ts';

const MEASURE_TIMEOUT_MS = 60_000;
const SYNC_TIMEOUT_MS = 600_000;
const measuring = new Slots(2);

/** Space and inodes of a tree, as the filesystem counts them; by a process, for a container may be changing the tree at that moment. */
export async function measureTree(dir: string): Promise<DiskUsage> {
  using _ = await measuring.take();
  const op = newOp('measure', { timeoutMs: MEASURE_TIMEOUT_MS });
  // The second walk finds everything in the kernel's caches.
  const size = await run(op, { argv: ['du', '-s', '-x', '-B1', '--', dir] });
  const inodes = await run(op, { argv: ['du', '-s', '-x', '--inodes', '--', dir] });
  return { sizeBytes: leading(dir, size), inodes: leading(dir, inodes) };
}

// A file that vanishes under du makes it fail, and its sum stands.
function leading(dir: string, { stdout, stderr }: { stdout: Buffer; stderr: Buffer }): number {
  const digits = /^\d+/.exec(stdout.toString('latin1'))?.[0];
  if (digits === undefined) throw new ClassifiedError('internal', `measure ${dir}: ${stderr.toString('utf8').trim().slice(0, 500)}`);
  return Number(digits);
}

/** Makes everything on one filesystem durable. Those who ask while a sync runs share the next one, which begins after all of them have written. */
export class FilesystemSync {
  readonly #dir: string;
  #running: Promise<void> | undefined;
  #next: Promise<void> | undefined;

  constructor(dir: string) {
    this.#dir = dir;
  }

  sync(op: Op): Promise<void> {
    if (this.#running === undefined) return this.#start(op);
    this.#next ??= this.#running
      .catch(() => undefined)
      .then(() => {
        this.#next = undefined;
        return this.#start(op);
      });
    return this.#next;
  }

  #start(op: Op): Promise<void> {
    // Shared, so nobody's cancellation may end it.
    const own = detached(op, SYNC_TIMEOUT_MS);
    const running = run(own, { argv: ['sync', '-f', '--', this.#dir] }).then(({ exitCode, stderr }) => {
      if (exitCode !== 0) throw new ClassifiedError('internal', `sync ${this.#dir}: ${stderr.toString('utf8').trim()}`);
    });
    this.#running = running.finally(() => (this.#running = undefined));
    return this.#running;
  }
}

const CACHE_MS = 10_000;

/** Usage of trees by key, measured at most every ten seconds, one after another, and once for all who ask meanwhile. */
export class UsageCache {
  readonly #entries = new Map<string, { readonly usage: Promise<DiskUsage>; untilMs: number }>();

  of(key: string, dir: string): Promise<DiskUsage> {
    const cached = this.#entries.get(key);
    if (cached && Date.now() < cached.untilMs) return cached.usage;
    // Counted from its end: a tree that takes longer to measure isn't measured twice at a time (R5).
    const entry = { usage: measureTree(dir), untilMs: Number.POSITIVE_INFINITY };
    this.#entries.set(key, entry);
    entry.usage.then(
      () => (entry.untilMs = Date.now() + CACHE_MS),
      () => {
        if (this.#entries.get(key) === entry) this.#entries.delete(key);
      },
    );
    return entry.usage;
  }

  forget(key: string): void {
    this.#entries.delete(key);
  }
}
