import type { Layer__Output } from '../gen/gantry/gantry/v1/Layer.ts';
import type { Client } from './client.ts';
import { sizeText } from './size.ts';

/** Where a pull is shown. */
export interface Screen {
  write(text: string): unknown;
  /** A terminal redraws its lines; elsewhere each change is a line. */
  readonly isTTY: boolean;
}

/** `gantry pull IMAGE`: a bar for each layer while it comes, then the image's id. Fails in the daemon's words. */
export async function pullWithProgress(client: Client, image: string, screen: Screen): Promise<string> {
  const display = screen.isTTY ? new Bars(screen) : new Lines(screen);
  using _watch = client.watchPulls((pulls) => {
    const pull = pulls.find((each) => isOf(each.image, image));
    if (pull) display.show(pull.layers);
  });
  return await client.pull(image);
}

/** The daemon tells normalised names: `docker.io/library/busybox:latest` for `busybox`. */
const isOf = (normalised: string, asked: string): boolean =>
  normalised === asked || normalised === `${asked}:latest` || normalised.endsWith(`/${asked}`) || normalised.endsWith(`/${asked}:latest`);

const WORDS = { WAITING: 'waiting', FETCHING: 'fetching', UNPACKING: 'unpacking', READY: 'ready' } as const;
const BAR_WIDTH = 30;

/** `3f1a9c04d2be  [=======>      ]  12.0 MB of 40.1 MB  fetching` */
export function barOf({ digest, sizeBytes, fetchedBytes, state }: Layer__Output): string {
  const [size, fetched] = [Number(sizeBytes), Number(fetchedBytes)];
  const full = size === 0 ? BAR_WIDTH : Math.min(BAR_WIDTH, Math.round((BAR_WIDTH * fetched) / size));
  const bar = full < BAR_WIDTH ? `${'='.repeat(full)}>`.padEnd(BAR_WIDTH).slice(0, BAR_WIDTH) : '='.repeat(BAR_WIDTH);
  return `${shortOf(digest)}  [${bar}]  ${sizeText(fetched)} of ${sizeText(size)}  ${WORDS[state]}`;
}

const shortOf = (digest: string): string => digest.replace('sha256:', '').slice(0, 12);

class Bars {
  readonly #screen: Screen;
  #drawn = 0;

  constructor(screen: Screen) {
    this.#screen = screen;
  }

  show(layers: readonly Layer__Output[]): void {
    const up = this.#drawn > 0 ? `\x1b[${this.#drawn}A` : '';
    this.#screen.write(up + layers.map((layer) => `\x1b[2K${barOf(layer)}\n`).join(''));
    this.#drawn = layers.length;
  }
}

class Lines {
  readonly #screen: Screen;
  readonly #said = new Map<string, string>();

  constructor(screen: Screen) {
    this.#screen = screen;
  }

  show(layers: readonly Layer__Output[]): void {
    for (const { digest, sizeBytes, state } of layers) {
      if (state === 'WAITING' || this.#said.get(digest) === state) continue;
      this.#said.set(digest, state);
      this.#screen.write(`${shortOf(digest)}  ${sizeText(Number(sizeBytes))}  ${WORDS[state]}\n`);
    }
  }
}
