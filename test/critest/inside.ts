// What hack/critest does in namespaces of its own: registry, Gantry, critest, the count. Arguments: critest, storage, critest's options.
import { readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { Gantry } from '../lib/gantry.ts';
import { runCritest } from './critest.ts';
import { startRegistry } from '../lib/docker-registry.ts';
import { readPlan } from './plan.ts';

const TOP = join(import.meta.dirname, '../..');
const OUT = join(TOP, '.out/critest');
export const MIRRORED = ['registry.k8s.io', 'k8s.gcr.io', 'gcr.io', 'public.ecr.aws'];

const [critest = '', storage = '', ...options] = process.argv.slice(2);
const IDMAP_HANDLER = 'runc-idmap';
const idmapRunc = process.env['RUNC_USERNS'];
const again = idmapRunc && !process.env['HANDLER'] ? [{ handler: IDMAP_HANDLER, focus: 'UserNamespaces' }] : [];
const logPath = join(OUT, 'gantry.log');
rmSync(logPath, { force: true });
await using registry = await startRegistry(storage);
const gantry = new Gantry({
  logPath,
  mirrors: Object.fromEntries(MIRRORED.map((host) => [host, registry.host])),
  flags: [
    '--pause-image',
    'registry.k8s.io/pause:3.10.1',
    ...(idmapRunc ? ['--handler', `${IDMAP_HANDLER}=${idmapRunc}`] : []),
    ...(process.env['HANDLER'] ? ['--default-handler', process.env['HANDLER']] : []),
  ],
});
await gantry.start();
try {
  const plan = readPlan(join(TOP, 'critest.yaml'));
  process.exitCode = await runCritest({ critest, options, again, socket: gantry.socket, outDir: OUT, plan });
} finally {
  await gantry.remove().catch((error: unknown) => {
    console.log(`what critest left could not all be removed: ${error instanceof Error ? error.message : String(error)}`);
    console.log(readFileSync(logPath, 'utf8').split('\n').slice(-20).join('\n'));
  });
}
