import { readFileSync } from 'node:fs';
import { join, normalize } from 'node:path';
import { assert } from '../base/assert.ts';

/** `hybrid`: v1 controllers, and a v2 tree without any beside them. */
export type CgroupMode = 'v1' | 'v2' | 'hybrid';

/** Where the cgroup filesystems are mounted. */
export interface Hierarchies {
  readonly mode: CgroupMode;
  /** Directory of each v1 controller and named hierarchy (`memory`, `name=systemd`); empty on v2. */
  readonly v1: ReadonlyMap<string, string>;
  /** Directory of the v2 tree, if there is one. */
  readonly unified: string | undefined;
}

let found: Hierarchies | undefined;

/** Of this machine; they don't change while it runs. */
export function hierarchies(): Hierarchies {
  found ??= findHierarchies(readFileSync('/proc/self/mountinfo', 'utf8'));
  return found;
}

const NOT_CONTROLLERS = new Set(['rw', 'ro', 'xattr', 'noprefix', 'clone_children', 'none']);

/** From the text of a mountinfo (proc(5)). */
export function findHierarchies(mountinfo: string): Hierarchies {
  const v1 = new Map<string, string>();
  let unified: string | undefined;
  for (const line of mountinfo.split('\n')) {
    const [before = '', after = ''] = line.split(' - ');
    const target = before.split(' ')[4] ?? '';
    const [type, , options = ''] = after.split(' ');
    if (type === 'cgroup2') unified ??= target;
    if (type !== 'cgroup') continue;
    for (const option of options.split(',')) {
      if (!NOT_CONTROLLERS.has(option) && !option.startsWith('release_agent=') && !v1.has(option)) v1.set(option, target);
    }
  }
  const controllers = [...v1.keys()].some((name) => !name.startsWith('name='));
  return { mode: controllers ? (unified === undefined ? 'v1' : 'hybrid') : 'v2', v1, unified };
}

/** From the text of /proc/PID/cgroup (cgroups(7)); v2's line has the controller "". */
export function membershipsIn(text: string): Array<{ readonly controllers: readonly string[]; readonly path: string }> {
  return text.split('\n').flatMap((line) => {
    const [, controllers = '', path] = /^\d+:([^:]*):(\/.*)$/.exec(line) ?? [];
    return path === undefined ? [] : [{ controllers: controllers.split(','), path }];
  });
}

/** Directory of a cgroup in a controller's hierarchy, or in the only one of v2. */
export function directoryOf({ mode, v1, unified }: Hierarchies, path: string, controller: string): string {
  const root = mode === 'v2' ? unified : v1.get(controller);
  return join(root ?? join('/sys/fs/cgroup', controller), checked(path));
}

/** Directories of one cgroup path: one per v1 hierarchy, or the one of v2. */
export function directoriesOf({ mode, v1, unified }: Hierarchies, path: string): string[] {
  const roots = mode === 'v2' ? [unified ?? '/sys/fs/cgroup'] : [...new Set(v1.values())];
  return roots.map((root) => join(root, checked(path)));
}

// A path that climbed out would be made, or removed, somewhere else on the host.
function checked(path: string): string {
  assert(
    path.startsWith('/') && !normalize(path).startsWith('/..') && !path.split('/').includes('..'),
    `cgroup path ${path} is absolute and plain`,
  );
  return path;
}
