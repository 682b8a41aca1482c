import { access, readdir, readFile } from 'node:fs/promises';
import { cgroupLimits, cgroupMode } from '../os/cgroup.ts';
import { getNofile } from '../os/syscalls.ts';
import { capabilitiesOf } from './oci-spec/capabilities.ts';
import type { DaemonFacts } from './oci-spec/spec.ts';

const read = (path: string): Promise<string> => readFile(path, 'utf8').catch(() => '');

/** What this daemon may and can do, read once. */
export async function daemonFacts(): Promise<DaemonFacts> {
  const status = await read('/proc/self/status');
  const mask = (name: string): bigint => BigInt(`0x${new RegExp(`^${name}:\\s*([0-9a-f]+)`, 'm').exec(status)?.[1] ?? '0'}`);
  const { hard, soft } = getNofile();
  const launcherSoft = Number(process.env['GANTRY_NOFILE_SOFT'] ?? Number.NaN);
  return {
    cgroupMode: cgroupMode(),
    cgroupLimits: cgroupLimits(),
    bounding: capabilitiesOf(mask('CapBnd')),
    oomScoreAdj: Number(await read('/proc/self/oom_score_adj')),
    mayLowerOomScore: capabilitiesOf(mask('CapEff')).includes('CAP_SYS_RESOURCE'),
    nofile: { soft: Number.isInteger(launcherSoft) && launcherSoft > 0 ? Math.min(launcherSoft, hard) : soft, hard },
    apparmor: (await read('/sys/module/apparmor/parameters/enabled')).trim() === 'Y',
    selinux: (await read('/sys/fs/selinux/enforce')) !== '',
    thermalThrottles: await thermalThrottles(),
  };
}

async function thermalThrottles(): Promise<string[]> {
  const cpus = '/sys/devices/system/cpu';
  const names = (await readdir(cpus).catch(() => [])).filter((name) => /^cpu\d+$/.test(name));
  const paths = names.map((name) => `${cpus}/${name}/thermal_throttle`);
  const found = await Promise.all(
    paths.map((path) =>
      access(path).then(
        () => true,
        () => false,
      ),
    ),
  );
  return paths.filter((_, index) => found[index] === true);
}
