/**
 * hack/bench: one CRI workload against Gantry and a peer, in turns on one machine, with the same OCI runtime, conflist and image. What counts is the ratio of
 * the medians in one run; milliseconds of two runs don't compare.
 */
import { existsSync, writeFileSync } from 'node:fs';
import { parseArgs } from 'node:util';
import { execa } from 'execa';
import { removeCgroup } from '../../src/os/cgroup.ts';
import { findProgram } from '../images/programs.ts';
import { demoImage, demoPause } from '../images/demo.ts';
import { serveImages } from '../images/registry.ts';
import type { Contender } from './contender.ts';
import { PAUSE_IMAGE, startContainerd, startGantry } from './contender.ts';
import { Disturbance, warn, warnBefore } from './disturbance.ts';
import { RawPods } from './floor.ts';
import { ROWS } from './rows.ts';
import type { Bench } from './rows.ts';
import type { Row } from './samples.ts';
import { rowOf, Samples, table } from './samples.ts';
import { IMAGE } from './workload.ts';

const names = (optional: boolean): string =>
  ROWS.filter((row) => (row.optional ?? false) === optional)
    .map(({ name }) => name)
    .join(' ');
const USAGE = `usage: hack/bench [--peer containerd|none] [--rounds N] [--only ROW]... [--json FILE]
       hack/bench images [--help]
rows: ${names(false)}
only run when named: ${names(true)}
`;

const { values } = parseArgs({
  options: {
    peer: { type: 'string', default: 'containerd' },
    rounds: { type: 'string', default: '3' },
    only: { type: 'string', multiple: true },
    json: { type: 'string' },
    help: { type: 'boolean' },
  },
});
const rounds = Number(values.rounds);
const unknown = (values.only ?? []).filter((name) => !ROWS.some((row) => row.name === name));
if (values.help || !['containerd', 'none'].includes(values.peer) || !(rounds >= 1) || unknown.length > 0) {
  process.stderr.write(unknown.length > 0 ? `hack/bench: no row ${unknown.join(', ')}\n${USAGE}` : USAGE);
  process.exit(values.help ? 0 : 2);
}

await warnBefore();
const watch = new Disturbance();
const image = await demoImage();
const registry = await serveImages(
  new Map([
    ['demo:1', image],
    ['pause:1', await demoPause()],
  ]),
);
const mirrors = { 'images.test': registry.host };
const crun = findProgram('crun');
// crun takes a hybrid host for a v2 one and fails; without the unified mount, here in a mount namespace of our own, it sees v1 (DESIGN 3.11).
if (crun !== undefined && existsSync('/sys/fs/cgroup/unified')) await execa('umount', ['/sys/fs/cgroup/unified']);
const handlers = crun === undefined ? [] : ['--handler', `crun=${crun}`];
const contenders: Contender[] = [await startGantry(mirrors, handlers)];
if (values.peer === 'containerd') contenders.push(await startContainerd(mirrors));
const floor = new RawPods('runc');
floor.prepare();

const results: Row[] = [];
try {
  const pull = async ({ cri }: Contender): Promise<void> => {
    for (const each of [IMAGE, PAUSE_IMAGE]) await cri.image('pullImage', { image: { image: each } });
  };
  for (const contender of contenders) await pull(contender);
  for (const { name, version } of contenders) console.log(`${name} ${version}`);
  const plainGantry = async (): Promise<Contender> => {
    const plain = await startGantry(mirrors, [...handlers, '--warm-sandboxes', '0'], { subnet: 3 });
    await pull(plain);
    return plain;
  };
  const bench: Bench = {
    contenders,
    plainGantry,
    floor,
    rounds,
  };
  for (const { name, unit, optional, measure } of ROWS) {
    if (values.only === undefined ? optional : !values.only.includes(name)) continue;
    const samples = new Samples();
    await measure(bench, samples);
    const row = rowOf(name, unit, samples, values.peer);
    results.push(row);
    console.log(table([row], values.peer).split('\n')[1]);
  }
} catch (error) {
  // Told before anything is taken down: that may fail for the same reason.
  console.error(error);
  process.exitCode = 1;
} finally {
  for (const contender of contenders) {
    await contender.remove();
    await removeCgroup(`/bench-${contender.name}`);
  }
  floor.remove();
  await removeCgroup('/bench-floor');
  await registry[Symbol.asyncDispose]();
}
console.log(`\n${table(results, values.peer)}`);
warn(watch.others(), 'during the run');
if (values.json !== undefined) writeFileSync(values.json, `${JSON.stringify({ rows: results }, undefined, 2)}\n`);
