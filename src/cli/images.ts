import type { Image__Output } from '../gen/cri/runtime/v1/Image.ts';
import type { Client } from './client.ts';
import { sizeText } from './size.ts';

/** `gantry images`: a line per name, or per image without one. */
export async function printImages(client: Client, print: (text: string) => void): Promise<void> {
  const rows = (await client.images()).flatMap(rowsOf).sort(([a], [b]) => a.localeCompare(b));
  const widths = [0, 1].map((column) => Math.max(...[HEAD, ...rows].map((row) => row[column]!.length)));
  for (const [name, id, size, pinned] of [HEAD, ...rows])
    print(`${name.padEnd(widths[0]!)}  ${id.padEnd(widths[1]!)}  ${size.padStart(9)}  ${pinned}`.trimEnd());
}

type Cells = readonly [name: string, id: string, size: string, pinned: string];
const HEAD: Cells = ['IMAGE', 'ID', 'SIZE', 'PINNED'];

const rowsOf = ({ id, repoTags, repoDigests, size, pinned }: Image__Output): Cells[] =>
  (repoTags.length > 0 ? repoTags : repoDigests.length > 0 ? repoDigests.slice(0, 1) : ['<none>']).map((name) => [
    ...([name, id.replace('sha256:', '').slice(0, 13), sizeText(Number(size)), pinned ? 'yes' : ''] as const),
  ]);
