import { execFileSync, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { freemem } from 'node:os';
import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import type { Contender } from '../contender.ts';
import { timed } from '../workload.ts';
import type { StoredImage } from './shelf.ts';

const PROBER = fileURLToPath(new URL('./prober.ts', import.meta.url));
const PULL_TIMEOUT_MS = 900_000;
/** Memory is touched in pieces of this size. */
const PIECE_BYTES = 64 << 20;
const EMPTY_TIMEOUT_MS = 120_000;
/** Databases and logs grow. */
const LEFTOVER_BYTES = 2 << 20;

/** Milliseconds until the image is ready to run. */
export const pull = (who: Contender, image: string): Promise<number> =>
  timed(() => who.cri.image('pullImage', { image: { image } }, PULL_TIMEOUT_MS));

/** `during` with ListContainers being asked by another process; resolves to the 99th percentile of its answers in milliseconds. */
export async function probed(who: Contender, during: () => Promise<unknown>): Promise<number> {
  const child = spawn(process.execPath, [PROBER, who.cri.socket], { stdio: ['pipe', 'pipe', 'inherit'] });
  const ended = once(child, 'exit');
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  try {
    if ((await lines.next()).value !== 'ready') throw new Error('the prober did not start');
    await during();
    child.stdin.end();
    const latencies = (JSON.parse(String((await lines.next()).value)) as number[]).sort((a, b) => a - b);
    return latencies[Math.floor(latencies.length * 0.99)] ?? 0;
  } finally {
    child.stdin.end();
    await ended;
  }
}

/** Longest stall of Gantry's event loop since this was asked last, in milliseconds. */
export async function stallMs(metricsPort: number): Promise<number> {
  const text = await (await fetch(`http://127.0.0.1:${metricsPort}/metrics`)).text();
  const seconds = /^gantry_event_loop_delay_seconds\{quantile="1"\} (\S+)$/m.exec(text)?.[1];
  if (seconds === undefined) throw new Error('Gantry tells no delay of its event loop');
  return Number(seconds) * 1000;
}

/** What files below a directory take on disk, on its own filesystem; some may be on their way out, which `find` takes for an error. */
export function diskBytes(dir: string): number {
  const { stdout } = spawnSync('find', [dir, '-xdev', '-printf', '%b\\n'], { encoding: 'utf8', maxBuffer: 64 << 20 });
  return stdout.split('\n').reduce((sum, blocks) => sum + Number(blocks) * 512, 0);
}

/** What went over loopback so far: in this network namespace, only between the registry and who asks it. */
export const loopbackBytes = (): number => Number(readFileSync('/sys/class/net/lo/statistics/tx_bytes', 'utf8'));

/**
 * Removes images; resolves when their space is free too, of which `before` was taken without them. Bytes, not files: an image that is kept as tars is a dozen
 * files, and what is still being deleted would be the next turn's burden.
 */
export async function removeImages(who: Contender, images: readonly string[], before: number): Promise<void> {
  for (const image of images) await who.cri.image('removeImage', { image: { image } }, PULL_TIMEOUT_MS);
  const untilMs = Date.now() + EMPTY_TIMEOUT_MS;
  for (let now = diskBytes(who.dir); now > before + LEFTOVER_BYTES; now = diskBytes(who.dir)) {
    if (Date.now() > untilMs) throw new Error(`${who.name} keeps what it had of removed images: ${now} bytes, ${before} without them`);
    await sleep(100);
  }
}

/** What an image takes at most of memory, page cache included: its layers in both forms, and as much again. */
const memoryFor = ({ layers }: StoredImage): number =>
  2 * layers.reduce((sum, { sizeBytes, plainBytes }) => sum + sizeBytes + plainBytes, 0);

/**
 * Nobody's turn starts with files in the page cache that it reads from disk, or with writes of who was before: of these files and filesystem only. Nor does it
 * pay for memory: what has been free for seconds a virtual machine may have given back to its host (free page reporting), and to write 2 GB to that took 2.5 s
 * where it takes 0.4 s otherwise.
 */
export function settle({ run, storage }: { run: string; storage: string }, image: StoredImage): void {
  execFileSync('sync', ['-f', run]);
  // POSIX_FADV_DONTNEED for the whole file, in dd's words.
  const drop = ['-exec', 'dd', 'if={}', 'iflag=nocache', 'count=0', 'status=none', ';'];
  execFileSync('find', [storage, '-name', 'data', '-type', 'f', ...drop]);
  // No more than the machine has to spare.
  const pieces = Math.ceil(Math.min(memoryFor(image), freemem() / 2) / PIECE_BYTES);
  execFileSync(process.execPath, ['-e', `Array.from({ length: ${pieces} }, () => Buffer.alloc(${PIECE_BYTES}, 1))`]);
}
