import { invalidArgument } from '../../base/errors.ts';
import type { LinuxContainerSecurityContext__Output } from '../../gen/cri/runtime/v1/LinuxContainerSecurityContext.ts';
import { defaultSeccomp } from './seccomp-default.ts';
import type { OciSeccomp } from './spec-types.ts';

export type SeccompChoice =
  { readonly kind: 'unconfined' } | { readonly kind: 'default' } | { readonly kind: 'localhost'; readonly path: string };

/** From SecurityProfile, or the deprecated path where that is all there is. Privileged containers are unconfined, as the CRI says. */
export function seccompChoice(context: LinuxContainerSecurityContext__Output | null): SeccompChoice {
  if (context === null || context.privileged) return { kind: 'unconfined' };
  const field = 'config.linux.security_context.seccomp';
  if (context.seccomp !== null) {
    const { profileType, localhostRef } = context.seccomp;
    if (profileType === 'RuntimeDefault') return { kind: 'default' };
    if (profileType === 'Localhost') return { kind: 'localhost', path: localhostPath(localhostRef, `${field}.localhost_ref`) };
    return { kind: 'unconfined' };
  }
  const path = context.seccompProfilePath;
  if (path === '' || path === 'unconfined') return { kind: 'unconfined' };
  if (path === 'runtime/default' || path === 'docker/default') return { kind: 'default' };
  const prefix = 'localhost/';
  if (path.startsWith(prefix)) return { kind: 'localhost', path: localhostPath(path.slice(prefix.length), `${field}_profile_path`) };
  throw invalidArgument(`${field}_profile_path`, `${JSON.stringify(path)} is not unconfined, runtime/default or localhost/<file>`);
}

function localhostPath(path: string, field: string): string {
  if (!path.startsWith('/')) throw invalidArgument(field, `${JSON.stringify(path)} is not an absolute path`);
  return path;
}

/** `localhost` is the parsed profile of that file, when it was asked for. */
export function seccompOf(choice: SeccompChoice, localhost: unknown, capabilities: readonly string[]): OciSeccomp | undefined {
  if (choice.kind === 'unconfined') return undefined;
  if (choice.kind === 'default') return defaultSeccomp(capabilities);
  const profile = localhost as OciSeccomp | null;
  if (typeof profile !== 'object' || profile === null || typeof profile.defaultAction !== 'string') {
    throw invalidArgument('config.linux.security_context.seccomp.localhost_ref', `${choice.path} is not a seccomp profile`);
  }
  return profile;
}
