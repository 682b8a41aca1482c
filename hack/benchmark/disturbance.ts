import { readdirSync, readFileSync } from 'node:fs';
import { loadavg } from 'node:os';

/** Above this, what is measured is not to be trusted. */
const MUCH = 0.1;

interface Jiffies {
  /** Of all cores that ran something. */
  readonly busy: number;
  readonly all: number;
  /** Of the processes in this PID namespace, those that ended included. */
  readonly own: number;
}

function jiffies(): Jiffies {
  const fields = (/^cpu +(.*)$/m.exec(readFileSync('/proc/stat', 'utf8'))?.[1] ?? '').split(' ').map(Number);
  const all = fields.slice(0, 8).reduce((sum, field) => sum + field, 0);
  let own = 0;
  for (const pid of readdirSync('/proc')) {
    if (!/^\d+$/.test(pid)) continue;
    try {
      const stat = readFileSync(`/proc/${pid}/stat`, 'utf8')
        .replace(/^.*\) /s, '')
        .split(' ');
      // utime, stime and, of children that were waited for, the same: what ends is counted with who waited for it.
      for (const field of stat.slice(11, 15)) own += Number(field);
    } catch {
      // it has ended
    }
  }
  return { busy: all - (fields[3] ?? 0) - (fields[4] ?? 0), all, own };
}

/** Who else uses the machine falsifies what is measured: other namespaces' processes, the kernel's own, other machines on the same cores (steal). */
export class Disturbance {
  #since = jiffies();

  /** Part of the CPUs, 0 to 1, that others used since the last call. */
  others(): number {
    const [before, now] = [this.#since, jiffies()];
    this.#since = now;
    return Math.max(0, (now.busy - before.busy - (now.own - before.own)) / Math.max(1, now.all - before.all));
  }
}

/** Says so where others used much. */
export function warn(others: number, when: string): void {
  if (others <= MUCH) return;
  const load = loadavg()[0]?.toFixed(1);
  console.log(`DISTURBED: others use ${Math.round(others * 100)} % of the CPUs ${when} (load ${load}): don't trust these figures`);
}

/** Two seconds in which nothing of ours runs. */
export async function warnBefore(): Promise<void> {
  const disturbance = new Disturbance();
  await new Promise((resolve) => setTimeout(resolve, 2000));
  warn(disturbance.others(), 'before the run');
}
