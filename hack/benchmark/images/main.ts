/**
 * hack/bench images: the same images pulled from the same registry by Gantry and a peer, in turns, onto the same filesystem. What counts is the ratio of the
 * medians in one run, and what is above the floor of that run.
 */
import { mkdirSync, writeFileSync } from 'node:fs';
import { resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { freePort, startRegistry } from '../../../test/lib/docker-registry.ts';
import type { Contender } from '../contender.ts';
import { startContainerd, startGantry } from '../contender.ts';
import { warn, warnBefore } from '../disturbance.ts';
import { table } from '../samples.ts';
import { INFLATER } from './floor.ts';
import { PLANS } from './plans.ts';
import type { PullRow } from './rows.ts';
import { pullRows } from './rows.ts';
import { emptyDir, stock } from './shelf.ts';

const DIR = fileURLToPath(new URL('../../../.out/bench', import.meta.url));
const names = PLANS.map(({ name }) => `pull-${name}`);
const USAGE = `usage: hack/bench images [--peer containerd|none] [--snapshotter overlay|erofs|auto] [--rounds N] [--only ROW]... [--json FILE]
                         [--scale FACTOR] [--dir DIR]
rows: ${names.join(' ')}
      each with -warm (another image with the same layers and a small one more), -list-p99 (ListContainers during the pull) and -stall (of Gantry's event loop)
--scale: images with so much less in them; --dir: where images are kept and pulled to, on a real disk; default ${DIR}
`;

const { values } = parseArgs({
  options: {
    peer: { type: 'string', default: 'containerd' },
    snapshotter: { type: 'string', default: 'auto' },
    rounds: { type: 'string', default: '3' },
    only: { type: 'string', multiple: true, default: names },
    json: { type: 'string' },
    scale: { type: 'string', default: '1' },
    dir: { type: 'string', default: DIR },
    help: { type: 'boolean' },
  },
});
const { peer, snapshotter } = values;
const [rounds, scale] = [Number(values.rounds), Number(values.scale)];
const unknown = values.only.filter((name) => !names.includes(name));
const known = ['containerd', 'none'].includes(peer) && ['overlay', 'erofs', 'auto'].includes(snapshotter);
if (values.help || !known || !(rounds >= 1) || !(scale > 0) || unknown.length > 0) {
  process.stderr.write(unknown.length > 0 ? `hack/bench: no row ${unknown.join(', ')}\n${USAGE}` : USAGE);
  process.exit(values.help ? 0 : 2);
}

const dir = resolve(values.dir);
mkdirSync(dir, { recursive: true });
const plans = PLANS.filter(({ name }) => values.only.includes(`pull-${name}`));
const { storage, images } = await stock(dir, plans, scale);
await warnBefore();

const run = emptyDir(dir);
await using stack = new AsyncDisposableStack();
stack.defer(() => void emptyDir(dir));
const registry = stack.use(await startRegistry(storage));
const mirrors = { 'images.test': registry.host };
const metricsPort = await freePort();
const contenders: Contender[] = [];
stack.defer(async () => {
  for (const contender of contenders) await contender.remove();
});
contenders.push(await startGantry(mirrors, ['--snapshotter', snapshotter, '--metrics-port', String(metricsPort)], { parent: run }));
if (peer === 'containerd') contenders.push(await startContainerd(mirrors, run));
for (const { name, version } of contenders) console.log(`${name} ${version}`);
console.log(`gantry with ${snapshotter}, the floor with ${INFLATER}`);

const results: PullRow[] = [];
for (const [name, image] of images) {
  const rows = await pullRows(name, image, { contenders, peer, rounds, run, storage, registry: registry.host, metricsPort });
  results.push(...rows);
  for (const row of rows) console.log(table([row], peer).split('\n')[1]);
  warn(rows[0]?.others ?? 0, `in one of the turns of pull-${name}`);
}
console.log(`\n${table(results, peer)}`);
if (values.json !== undefined)
  writeFileSync(values.json, `${JSON.stringify({ snapshotter, scale, inflater: INFLATER, rows: results }, undefined, 2)}\n`);
