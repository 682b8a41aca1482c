/**
 * A process of its own that asks a CRI socket for ListContainers every 20 ms, whether or not it has answered the last time. Says "ready" after a first answer;
 * when its stdin ends it writes the latencies in milliseconds, as JSON.
 */
import { Cri } from '../../../test/lib/cri.ts';
import { timed } from '../workload.ts';

const EVERY_MS = 20;

using cri = new Cri(process.argv[2] ?? '');
const ask = (): Promise<number> => timed(() => cri.runtime('listContainers', {}));
await ask();
process.stdout.write('ready\n');
const asked: Array<Promise<number>> = [];
const timer = setInterval(() => asked.push(ask()), EVERY_MS);
for await (const _ of process.stdin);
clearInterval(timer);
process.stdout.write(`${JSON.stringify(await Promise.all(asked))}\n`);
