import type { ContainerConfig__Output } from '../gen/cri/runtime/v1/ContainerConfig.ts';
import type { SelinuxLabels } from '../os/selinux.ts';
import { knowsLabel, withOptions } from '../os/selinux.ts';
import type { PodSandboxRecord } from '../sandbox/record.ts';
import { known } from '../sandbox/selinux.ts';

/** The type of a process that SELinux lets do everything: "super privileged container" in the container policy. */
const PRIVILEGED_TYPE = 'spc_t';

/**
 * A container has its pod's labels, changed as its own options say; its level is the pod's unless it names one, so that the containers of a pod can share files.
 * A privileged process is unconfined, its files are the pod's. undefined: nothing is labelled on this machine.
 * invalidArgument when the policy does not know them.
 */
export function containerLabels(
  sandbox: Pick<PodSandboxRecord, 'selinux'>,
  config: Pick<ContainerConfig__Output, 'linux'>,
  knows: (label: string) => boolean = knowsLabel,
): SelinuxLabels | undefined {
  if (sandbox.selinux === undefined) return undefined;
  const context = config.linux?.securityContext ?? null;
  const options = context?.selinuxOptions ?? null;
  const labels = options === null ? sandbox.selinux : withOptions(sandbox.selinux, options);
  if (context?.privileged !== true || (options !== null && options.type !== '')) return known(labels, knows);
  const unconfined = withOptions(labels, { user: '', role: '', type: PRIVILEGED_TYPE, level: options?.level || 's0' });
  return known({ process: unconfined.process, mount: labels.mount }, knows);
}
