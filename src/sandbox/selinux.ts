import type { PodSandboxConfig__Output } from '../gen/cri/runtime/v1/PodSandboxConfig.ts';
import { invalidArgument } from '../base/errors.ts';
import type { SelinuxLabels } from '../os/selinux.ts';
import { freeLevel, knowsLabel, withOptions } from '../os/selinux.ts';
import type { PodSandboxRecord } from './record.ts';

const NO_OPTIONS = { user: '', role: '', type: '', level: '' };

const FIELD = 'config.linux.security_context.selinux_options';

/**
 * A pod's labels: the machine's, with what the pod wants otherwise, and a level that no other pod has unless it names one. invalidArgument when the policy does
 * not know them.
 */
export function podLabels(
  { selinux, store }: { selinux: SelinuxLabels; store: { values(): readonly PodSandboxRecord[] } },
  config: PodSandboxConfig__Output,
  knows: (label: string) => boolean = knowsLabel,
): SelinuxLabels {
  const options = config.linux?.securityContext?.selinuxOptions ?? NO_OPTIONS;
  const used = new Set(store.values().flatMap((other) => (other.selinux === undefined ? [] : [levelOf(other.selinux.mount)])));
  return known(withOptions(selinux, { ...options, level: options.level || freeLevel(used) }), knows);
}

/** invalidArgument with the field of the options, which are what can make a label unknown. */
export function known(labels: SelinuxLabels, knows: (label: string) => boolean): SelinuxLabels {
  for (const label of [labels.process, labels.mount])
    if (!knows(label)) throw invalidArgument(FIELD, `the SELinux policy of this machine has no ${label}`);
  return labels;
}

const levelOf = (label: string): string => label.split(':').slice(3).join(':');
