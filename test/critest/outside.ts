// What hack/critest does before it enters namespaces of its own: everything that may need the network.
import { join } from 'node:path';
import { mkdirSync } from 'node:fs';
import { execa } from 'execa';
import { prepareImages } from './image-registry.ts';
import { readPlan } from './plan.ts';
import { findTools } from './tools.ts';

const TOP = join(import.meta.dirname, '../..');
const OUT = join(TOP, '.out');

try {
  mkdirSync(join(OUT, 'critest'), { recursive: true });
  readPlan(join(TOP, 'critest.yaml'));
  const { critest } = await findTools(OUT);
  const storage = await prepareImages(join(OUT, 'critest'));
  // It says itself why there is none; the specs that need it are skipped then, and the floor tells.
  const runc = await execa(join(TOP, 'hack/build-runc'), { reject: false, stderr: 'inherit' });
  const env = runc.exitCode === 0 ? { RUNC_USERNS: runc.stdout } : {};
  const inside = [join(TOP, 'hack/node'), join(import.meta.dirname, 'inside.ts'), critest, storage, ...process.argv.slice(2)];
  const { exitCode } = await execa(join(TOP, 'hack/private'), inside, { reject: false, stdio: 'inherit', env });
  process.exitCode = exitCode ?? 1;
} catch (error) {
  console.error(`hack/critest: ${error instanceof Error ? error.message : String(error)}`);
  process.exitCode = 1;
}
