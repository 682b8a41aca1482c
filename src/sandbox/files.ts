import { mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { chown, mkdir, readFile } from 'node:fs/promises';
import { hostname } from 'node:os';
import { mount, umount } from '../os/mount.ts';
import { contextOption, labelFile } from '../os/selinux.ts';
import { hostIdOf } from '../os/user-namespace.ts';
import type { PodPaths } from './paths.ts';
import type { PodSandboxRecord } from './record.ts';
import { namespaceMode, userMappings, usesHostNetwork } from './record.ts';

const SHM_SIZE_BYTES = 64 * 1024 * 1024;

/** The pod's directory with resolv.conf, hostname and /dev/shm, which belong to the pod's root; `removePodFiles` is its undo. */
export async function createPodFiles(record: PodSandboxRecord, paths: PodPaths): Promise<void> {
  mkdirSync(paths.dir, { recursive: true, mode: 0o711 });
  writeFileSync(paths.resolvConf, await resolvConf(record), { mode: 0o644 });
  writeFileSync(paths.hostname, `${podHostname(record) || hostname()}\n`, { mode: 0o644 });
  const mappings = userMappings(record.config);
  const [uid = 0, gid = 0] = [mappings && hostIdOf(mappings.uids, 0), mappings && hostIdOf(mappings.gids, 0)];
  if (mappings) for (const file of [paths.resolvConf, paths.hostname]) await chown(file, uid, gid);
  const { selinux } = record;
  if (selinux) for (const file of [paths.resolvConf, paths.hostname]) labelFile(file, selinux.mount);
  if (namespaceMode(record.config, 'ipc') !== 'NODE') {
    mkdirSync(paths.shm, { mode: 0o1777 });
    mount({
      source: 'shm',
      target: paths.shm,
      type: 'tmpfs',
      flags: ['nosuid', 'nodev', 'noexec'],
      data: `mode=1777,size=${SHM_SIZE_BYTES},uid=${uid},gid=${gid}${selinux ? `,${contextOption(selinux.mount)}` : ''}`,
    });
  }
  if (record.config.logDirectory !== '') await mkdir(record.config.logDirectory, { recursive: true, mode: 0o755 });
}

export async function removePodFiles(paths: PodPaths): Promise<void> {
  await umount(paths.shm);
  rmSync(paths.dir, { recursive: true, force: true });
}

/** "" on the host's network: the pod has the host's own name. */
export const podHostname = (record: PodSandboxRecord): string => (usesHostNetwork(record.config) ? '' : record.config.hostname);

async function resolvConf(record: PodSandboxRecord): Promise<string> {
  const dns = record.config.dnsConfig;
  // Without a DNS config the CRI leaves the choice to us; the host's own file is what containerd and CRI-O give too.
  if (dns === null) return await readFile('/etc/resolv.conf', 'utf8').catch(() => '');
  const lines = [
    ...(dns.searches.length > 0 ? [`search ${dns.searches.join(' ')}`] : []),
    ...dns.servers.map((server) => `nameserver ${server}`),
    ...(dns.options.length > 0 ? [`options ${dns.options.join(' ')}`] : []),
  ];
  return lines.map((line) => `${line}\n`).join('');
}
