import { spawn } from 'node:child_process';
import { once as event } from 'node:events';
import { closeSync, openSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import type { Spec } from './junit.ts';
import { countsOf, specsOf, together } from './junit.ts';
import type { Plan } from './plan.ts';
import { skipsHere } from './plan.ts';

export interface CritestRun {
  readonly critest: string;
  /** The caller's own, after ours. With any, the floor is not asked for, and nothing is run again. */
  readonly options: readonly string[];
  /** Specs that the default handler skips are run under these as well. */
  readonly again: ReadonlyArray<{ readonly handler: string; readonly focus: string }>;
  readonly socket: string;
  /** Where junit.xml and critest.log go. */
  readonly outDir: string;
  readonly plan: Plan;
}

const TIMEOUT_MS = 30 * 60_000;

/** Prints what failed and, last, `N passed, N failed, N skipped`. Resolves to the exit code: 1 for a failed spec or fewer passes than the floor. */
export async function runCritest(run: CritestRun): Promise<number> {
  const { options, outDir, plan } = run;
  for (const { match, reason } of skipsHere(plan)) console.log(`left out: ${match} (${reason})`);
  const begunMs = Date.now();
  let specs = await once(run, { name: 'critest', options });
  for (const { handler, focus } of options.length === 0 ? run.again : []) {
    const more = await once(run, { name: `critest-${handler}`, options: ['-runtime-handler', handler, '-ginkgo.focus', focus] });
    const ran = more?.filter(({ status }) => status !== 'skipped').length ?? 0;
    console.log(`under handler ${handler}: ${ran} specs of ${focus}`);
    specs = specs && more && together(specs, more);
  }
  if (specs === undefined) return 1;
  for (const { name, message } of specs.filter(({ status }) => status === 'failed')) console.log(`failed: ${name}${firstLine(message)}`);
  const counts = countsOf(specs);
  console.log(`critest took ${Math.round((Date.now() - begunMs) / 1000)} s; report and logs are in ${outDir}`);
  const below = options.length === 0 && counts.passed < plan.floor;
  if (below) console.log(`the floor in critest.yaml is ${plan.floor} passed`);
  if (options.length === 0 && counts.passed > plan.floor) console.log(`more than the floor of ${plan.floor}: raise it in critest.yaml`);
  console.log(`${counts.passed} passed, ${counts.failed} failed, ${counts.skipped} skipped`);
  return counts.failed > 0 || below || counts.passed === 0 ? 1 : 0;
}

/** Its report is junit.xml, or <name>.xml, and its output <name>.log. undefined, having said why, when it wrote none. */
async function once(run: CritestRun, { name, options }: { name: string; options: readonly string[] }): Promise<Spec[] | undefined> {
  const { critest, socket, outDir, plan } = run;
  const junit = join(outDir, name === 'critest' ? 'junit.xml' : `${name}.xml`);
  const logPath = join(outDir, `${name}.log`);
  rmSync(junit, { force: true });
  const args = [
    ...['-runtime-endpoint', `unix://${socket}`, '-image-endpoint', `unix://${socket}`],
    ...['-ginkgo.junit-report', junit, '-ginkgo.no-color', '-ginkgo.v', ...plan.options],
    ...skipsHere(plan).flatMap(({ match }) => ['-ginkgo.skip', match]),
    ...options,
  ];
  const log = openSync(logPath, 'w');
  const child = spawn(critest, args, { cwd: outDir, stdio: ['ignore', log, log], timeout: TIMEOUT_MS });
  closeSync(log);
  const [exitCode, signal] = (await event(child, 'exit')) as [number | null, NodeJS.Signals | null];
  const specs = reported(junit);
  if (specs !== undefined) return specs;
  console.log(readFileSync(logPath, 'utf8').split('\n').slice(-30).join('\n'));
  console.log(`critest wrote no report (exit code ${exitCode ?? signal}); its output is in ${logPath}`);
  return undefined;
}

function reported(junit: string): Spec[] | undefined {
  try {
    return specsOf(readFileSync(junit, 'utf8'));
  } catch {
    return undefined;
  }
}

const firstLine = (message: string): string => (message === '' ? '' : `\n  ${message.trim().split('\n').slice(0, 3).join('\n  ')}`);
