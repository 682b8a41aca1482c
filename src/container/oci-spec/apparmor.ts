import { invalidArgument } from '../../base/errors.ts';
import type { LinuxContainerSecurityContext__Output } from '../../gen/cri/runtime/v1/LinuxContainerSecurityContext.ts';

/** `unset`: nothing was said, and the default is ours to give. `field` is the CRI field that asks for it. */
export type AppArmorChoice =
  | { readonly kind: 'unset' }
  | { readonly kind: 'unconfined' }
  | { readonly kind: 'default'; readonly field: string }
  | { readonly kind: 'localhost'; readonly field: string; readonly profile: string };

/** From SecurityProfile, or the deprecated name where that is all there is. A privileged container that says nothing is unconfined. */
export function appArmorChoice(context: LinuxContainerSecurityContext__Output | null): AppArmorChoice {
  const field = 'config.linux.security_context.apparmor';
  if (context?.apparmor) {
    const { profileType, localhostRef } = context.apparmor;
    if (profileType === 'RuntimeDefault') return { kind: 'default', field: `${field}.profile_type` };
    if (profileType === 'Localhost') return localhost(localhostRef, `${field}.localhost_ref`);
    return { kind: 'unconfined' };
  }
  const name = context?.apparmorProfile ?? '';
  if (name === 'unconfined' || (name === '' && context?.privileged === true)) return { kind: 'unconfined' };
  if (name === '') return { kind: 'unset' };
  if (name === 'runtime/default') return { kind: 'default', field: `${field}_profile` };
  if (name.startsWith('localhost/')) return localhost(name, `${field}_profile`);
  throw invalidArgument(`${field}_profile`, `${JSON.stringify(name)} is not unconfined, runtime/default or localhost/<profile>`);
}

function localhost(text: string, field: string): AppArmorChoice {
  const profile = text.replace(/^localhost\//, '');
  // It becomes one line of /proc/self/attr/exec.
  if (profile === '' || /[\0-\x1f\x7f]/.test(profile)) throw invalidArgument(field, `${JSON.stringify(text)} is not the name of a profile`);
  return { kind: 'localhost', field, profile };
}

export const DEFAULT_PROFILE = 'gantry-default';

/**
 * What RuntimeDefault confines to: everything but what reaches the kernel's and the host's settings through /proc and /sys, mounts, and processes outside.
 * Without an include, so that it loads wherever there is a parser.
 */
export const DEFAULT_PROFILE_TEXT = `
profile ${DEFAULT_PROFILE} flags=(attach_disconnected,mediate_deleted) {
  network,
  unix,
  capability,
  file,
  umount,

  # The host may signal and look at containers, containers only each other. Distributions give the runtimes names of their own.
  signal (receive) peer=unconfined,
  signal (receive) peer=runc,
  signal (receive) peer=crun,
  signal (send,receive) peer=${DEFAULT_PROFILE},
  ptrace (readby,tracedby) peer=unconfined,
  ptrace (trace,read,tracedby,readby) peer=${DEFAULT_PROFILE},

  deny mount,

  # Of /proc a container may write to its processes and to what its namespaces own: sys/net, sys/fs/mqueue, sys/kernel/{shm,sem,msg}*.
  deny /proc/[a-rt-zA-Z]** wl,
  deny /proc/s[^y]** wl,
  deny /proc/sys[^/]** wl,
  deny /proc/sys/[^fkn]** wl,
  deny /proc/sys/fs/[^m]** wl,
  deny /proc/sys/fs/m[^q]** wl,
  deny /proc/sys/kernel/[^ms]** wl,
  deny /proc/sys/kernel/m[^s]** wl,
  deny /proc/sys/kernel/s[^eh]** wl,
  deny /proc/{kcore,sysrq-trigger} rwl,

  # Of /sys to its cgroups.
  deny /sys/[^f]** wl,
  deny /sys/f[^s]** wl,
  deny /sys/fs/[^c]** wl,
  deny /sys/fs/c[^g]** wl,
  deny /sys/{firmware,kernel/security,devices/virtual/powercap}/** rwl,
}
`;
