import type { PodSandboxConfig__Output } from '../gen/cri/runtime/v1/PodSandboxConfig.ts';
import type { SelinuxLabels } from '../os/selinux.ts';
import { freeLevel, withOptions } from '../os/selinux.ts';
import type { PodSandboxRecord } from './record.ts';

const NO_OPTIONS = { user: '', role: '', type: '', level: '' };

/** A pod's labels: the machine's, with what the pod wants otherwise, and a level that no other pod has unless it names one. */
export function podLabels(defaults: SelinuxLabels, config: PodSandboxConfig__Output, others: readonly PodSandboxRecord[]): SelinuxLabels {
  const options = config.linux?.securityContext?.selinuxOptions ?? NO_OPTIONS;
  const used = new Set(others.flatMap(({ selinux }) => (selinux === undefined ? [] : [levelOf(selinux.mount)])));
  return withOptions(defaults, { ...options, level: options.level || freeLevel(used) });
}

const levelOf = (label: string): string => label.split(':').slice(3).join(':');
