// What hack/critest does in namespaces of its own: registry, Gantry, critest, the count. Arguments: critest, storage, critest's options.
import { existsSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { execa } from 'execa';
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
const handler = process.env['HANDLER'];
const again = idmapRunc && !handler ? [{ handler: IDMAP_HANDLER, focus: 'UserNamespaces' }] : [];
// Debian's runsc of 2022 takes any network namespace of a newer kernel for the root one, so that it can't bring its own network stack into a pod's.
const CONFIG = '[handlers.runc]\n[handlers.crun]\n[handlers.runsc]\nargs = ["--platform=ptrace", "--network=host"]\n';
// crun takes a hybrid host for a v2 one and fails; without the unified mount, here in a mount namespace of our own, it sees v1 (DESIGN 3.11).
if (handler === 'crun' && existsSync('/sys/fs/cgroup/unified')) await execa('umount', ['/sys/fs/cgroup/unified']);
const logPath = join(OUT, 'gantry.log');
rmSync(logPath, { force: true });
await using registry = await startRegistry(storage);
const gantry = new Gantry({
  logPath,
  config: CONFIG,
  mirrors: Object.fromEntries(MIRRORED.map((host) => [host, registry.host])),
  flags: [
    '--pause-image',
    'registry.k8s.io/pause:3.10.1',
    ...(idmapRunc ? ['--handler', `${IDMAP_HANDLER}=${idmapRunc}`] : []),
    ...(handler ? ['--default-handler', handler] : []),
  ],
});
await gantry.start();
try {
  const plan = readPlan(join(TOP, 'critest.yaml'));
  const under = handler ? ['-runtime-handler', handler] : [];
  process.exitCode = await runCritest({ critest, options: [...under, ...options], again, socket: gantry.socket, outDir: OUT, plan });
} finally {
  await gantry.remove().catch((error: unknown) => {
    console.log(`what critest left could not all be removed: ${error instanceof Error ? error.message : String(error)}`);
    console.log(readFileSync(logPath, 'utf8').split('\n').slice(-20).join('\n'));
  });
}
